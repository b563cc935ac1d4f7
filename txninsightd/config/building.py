"""From the tree of a valid file to the `Config`: the short forms of topics, fields and `start` become structs.

The tree has been checked; the defaults of `model` fill in missing keys.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from txninsightd.config.model import ClientValue, Config, Secret, Start, names_secret
from txninsightd.vocabulary import KIND_WORDS, Objective, Thresholds

_START = re.compile(r"(?P<count>[1-9][0-9]{0,8})(?P<unit>[smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_START_S = 315_360_000
FIELDS = ("event", "txn_id", "ts", "txn_type", "step", "status")

Tree = dict[str, Any]


def start_of(text: str) -> Start:
    """Read `earliest`, `latest` or a duration such as `90s`, `15m`, `2h`, `7d`. Raises ValueError."""
    if text == "earliest":
        return Start("earliest")
    if text == "latest":
        return Start("latest")
    match = _START.fullmatch(text)
    ago_s = int(match["count"]) * _UNIT_S[match["unit"]] if match else 0
    if not 0 < ago_s <= _LONGEST_START_S:
        raise ValueError(text)
    return Start("ago", ago_s)


def build(tree: Tree, filled_in: Iterable[str] = ()) -> Config:
    """Build the config of a tree without faults; `filled_in` is what stood for its `${...}`."""
    sections = dict(tree)
    if "kafka" in tree:
        sections["kafka"] = {key: _client(value) for key, value in tree["kafka"].items()}
    if "topics" in tree:
        sections["topics"] = [_topic(_plain(entry)) | {"hidden": _holds_secret(entry)} for entry in tree["topics"]]
    if "start" in tree:
        hidden = isinstance(tree["start"], Secret)
        sections["start"] = msgspec.structs.asdict(start_of(tree["start"])) | {"hidden": hidden}
    sections["transaction_types"] = _transaction_types(tree)
    config = msgspec.convert(sections, Config)
    return msgspec.structs.replace(config, filled_in=tuple(map(Secret, sorted(filled_in))))


def _client(properties: dict[str, ClientValue]) -> dict[str, ClientValue]:
    return {
        name: Secret(value) if isinstance(value, str) and names_secret(name) else value
        for name, value in properties.items()
    }


def _transaction_types(tree: Tree) -> Tree:
    thresholds = msgspec.structs.asdict(Thresholds()) | tree.get("stuck", {})
    objective = msgspec.structs.asdict(Objective()) | tree.get("objective", {})
    return {
        txn_type: {**thresholds, **own, "objective": objective | own.get("objective", {})}
        for txn_type, own in tree.get("transaction_types", {}).items()
    }


def _holds_secret(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_holds_secret, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Secret)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Secret) else value


def _topic(entry: str | Tree) -> Tree:
    if isinstance(entry, str):
        return {"name": entry}
    return entry | {"mapping": _mapping(entry["mapping"])} if "mapping" in entry else entry


def _mapping(mapping: Tree) -> Tree:
    fields = {field: _source(mapping[field]) for field in FIELDS if field in mapping}
    kinds = KIND_WORDS | {word: KIND_WORDS[kind] for word, kind in mapping.get("kinds", {}).items()}
    return mapping | fields | {"kinds": kinds}


def _source(source: str | Tree) -> Tree:
    match source:
        case {"const": value}:
            return {"type": "const", "value": value}
        case {"key": True}:
            return {"type": "key"}
        case {"header": name}:
            return {"type": "header", "name": name}
        # Otherwise it is a path: bare, or as the only key of a mapping.
        case {"path": path} | path:
            return {"type": "path", "names": str(path).split(".")}
