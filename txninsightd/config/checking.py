"""Checks a reading against the JSON Schema and against the rules that span several keys.

Each fault becomes a problem of the reading; none stops the search. The messages come from the schema's own keywords (or
its `x-expected`), never from jsonschema's messages, which quote the faulty values.
"""

import difflib
import json
import math
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import islice, pairwise
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators

from txninsightd.config.building import FIELDS, start_of
from txninsightd.config.model import CONTROL_SOCKET, LONGEST_SOCKET_PATH, Config, Secret
from txninsightd.config.problems import MOST_PROBLEMS, KeyPath, found, key_name
from txninsightd.config.reading import Reading

Fault = tuple[KeyPath, str]
Tree = dict[str, Any]

_AT_MOST = (
    (("state", "settle_lateness_s"), ("state", "settle_max_s")),
    (("supervise", "backoff_initial_s"), ("supervise", "backoff_max_s")),
)
_DEEPEST_PATH = 100
_LONGEST_KEY = 100
_UNNAMEABLE = re.compile(r'["\\\x00-\x1f]')
_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^][:/\s]+):(?P<port>[0-9]{1,5})")


def check(reading: Reading) -> None:
    """Add all faults of a reading's values to its problems."""
    faults = list(islice(_schema_faults(reading.tree), MOST_PROBLEMS + 1))
    # With more faults than are shown, the sound values are not known, and the rules over several keys not needed.
    if len(faults) <= MOST_PROBLEMS:
        sound = _Sound(reading.tree, reading.unread | {path for path, _ in faults})
        for rule in _RULES:
            faults.extend(islice(rule(sound), MOST_PROBLEMS + 1))
    for path, message in dict.fromkeys(faults):
        # The operator did not write a placeholder, so its faults are not reported.
        if not _is_around(reading.unread, path):
            reading.fault(path, message)


@cache
def schema() -> Tree:
    """Give the JSON Schema of the config."""
    text = files("txninsightd.config").joinpath("config.schema.json").read_text(encoding="utf-8")
    tree: Tree = json.loads(text)
    return tree


def _is_around(paths: set[KeyPath], path: KeyPath) -> bool:
    return any(path[:end] in paths for end in range(len(path) + 1))


def _is_integer(_checker: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: Any, value: Any) -> bool:
    return _is_integer(checker, value) or (isinstance(value, float) and math.isfinite(value))


def _pattern(_validator: Any, pattern: str, value: Any, _schema: Tree) -> Iterator[ValidationError]:
    """The keyword as in ECMA: `$` is the end of the text; Python's `$` also matches before a last line break."""
    # In the schema's patterns each $ is an anchor: none is escaped, none is in a class.
    if isinstance(value, str) and not re.search(pattern.replace("$", r"\Z"), value):
        yield ValidationError("does not match")


def _is_listen(value: object) -> bool:
    match = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    return not isinstance(value, str) or (match is not None and int(match["port"]) <= 65535)


def _compiles(value: object) -> bool:
    return not isinstance(value, str) or re.compile(value) is not None


def _starts(value: object) -> bool:
    return not isinstance(value, str) or start_of(value) is not None


@cache
def _validator() -> Any:
    # A format checks texts only; the keyword `type` requires the text.
    formats = FormatChecker(formats=())
    formats.checks("listen")(_is_listen)
    formats.checks("regex", raises=(re.error, RecursionError, OverflowError))(_compiles)
    formats.checks("start", raises=ValueError)(_starts)
    types = Draft202012Validator.TYPE_CHECKER.redefine_many({"number": _is_number, "integer": _is_integer})
    extend: Any = validators.extend
    return extend(Draft202012Validator, validators={"pattern": _pattern}, type_checker=types)(
        schema(), format_checker=formats
    )


def _schema_faults(tree: Any) -> Iterator[Fault]:
    for error in _validator().iter_errors(tree):
        yield from _faults_of(error, tuple(error.absolute_path))


def _faults_of(error: Any, path: KeyPath) -> Iterator[Fault]:
    """Turn one of jsonschema's errors (its attributes are loosely typed) into faults with our messages."""
    node, value = error.schema, error.instance
    match error.validator:
        case "additionalProperties":
            known = node["properties"]
            yield from (((*path, key), _unknown_key(key, list(known))) for key in value if key not in known)
        case "required":
            missing = [key for key in error.validator_value if key not in value]
            yield from (
                ((*path, key), f"expected {_expectation(node['properties'][key])} (found nothing)") for key in missing
            )
        case "dependentRequired":
            yield path, "expected exclude only beside a pattern (found it alone)"
        case "not":
            yield path, node["x-expected"]
        # The instance is a key here, not a value.
        case _ if "propertyNames" in error.absolute_schema_path:
            yield (*path, value), f"expected {_expectation(node)} (found another key)"
        case _:
            yield path, f"expected {_expectation(node)} (found {found(path, value)}{_reason(error)})"


def _unknown_key(key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key[:_LONGEST_KEY], known, n=1)
    wanted = f"perhaps {nearest[0]}" if nearest else f"one of {', '.join(known)}"
    return f"expected a known key, {wanted} (found an unknown one)"


def _reason(error: Any) -> str:
    cause = error.cause
    return f": {cause}" if isinstance(cause, re.error) and not isinstance(error.instance, Secret) else ""


def _expectation(node: Tree) -> str:
    """Describe what a node of the schema requires."""
    if "x-expected" in node:
        return str(node["x-expected"])
    if "enum" in node:
        return f"one of {', '.join(node['enum'])}" if len(node["enum"]) > 1 else str(node["enum"][0])
    if "const" in node:
        return json.dumps(node["const"])
    types = [node["type"]] if isinstance(node["type"], str) else node["type"]
    return " or ".join(_TYPES[name] for name in types) + _bounds(node)


_TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "a mapping of keys to values",
    "string": "a text",
}

_BOUNDS = {
    "minItems": "at least {} long",
    "maxItems": "at most {} long",
    "minProperties": "at least {} key in it",
    "exclusiveMinimum": "greater than {}",
    "exclusiveMaximum": "less than {}",
    "minimum": "at least {}",
    "maximum": "at most {}",
}


def _bounds(node: Tree) -> str:
    words = [form.format(node[keyword]) for keyword, form in _BOUNDS.items() if keyword in node]
    return f", {' and '.join(words)}" if words else ""


class _Sound:
    """The values without a fault, so that a rule over several keys need not check each again."""

    def __init__(self, tree: Any, faulty: set[KeyPath]) -> None:
        self._tree = tree
        self._faulty = faulty

    def value(self, path: KeyPath, missing: Any = None) -> Any:
        """Give the value at a path, `missing` where there is none, or None for a faulty one."""
        if _is_around(self._faulty, path):
            return None
        value = self._tree
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return missing
        return value

    def items(self, *path: str) -> list[tuple[KeyPath, Any]]:
        """Give the sound items of a list with their paths."""
        inner: list[KeyPath] = [(*path, index) for index in range(len(self.value(path, []) or ()))]
        return [(path, value) for path in inner if (value := self.value(path)) is not None]


def _swapped_bounds(sound: _Sound) -> Iterator[Fault]:
    for lower, upper in _AT_MOST:
        low, high = sound.value(lower, _default(lower)), sound.value(upper, _default(upper))
        if low is not None and high is not None and low > high:
            yield upper, f"expected at least {low}, as {'.'.join(lower)} says (found {high})"


def _no_room_for_a_socket(sound: _Sound) -> Iterator[Fault]:
    path = ("state", "directory")
    room = LONGEST_SOCKET_PATH - len(f"/{CONTROL_SOCKET}")
    if len((sound.value(path, "") or "").encode()) > room:
        yield path, f"expected at most {room} bytes, since a socket lies in it (found more)"


def _default(path: tuple[str, ...]) -> Any:
    value: Any = Config()
    for part in path:
        value = getattr(value, part)
    return value


def _unsorted_buckets(sound: _Sound) -> Iterator[Fault]:
    for (_, low), (path, high) in pairwise(sound.items("metrics", "duration_buckets_s")):
        if low >= high:
            yield path, f"expected bounds in ascending order, here above {low} (found {high})"


def _topics_given_twice(sound: _Sound) -> Iterator[Fault]:
    seen: dict[tuple[str, str], KeyPath] = {}
    for path, entry in sound.items("topics"):
        for kind, word in _covers(sound, path, entry):
            if (kind, word) in seen:
                yield path, f"expected each {kind} once (found the one of {key_name(seen[kind, word])} again)"
            seen.setdefault((kind, word), path)


def _covers(sound: _Sound, path: KeyPath, entry: Any) -> list[tuple[str, str]]:
    if isinstance(entry, str):
        return [("name", entry)]
    return [(kind, word) for kind in ("name", "pattern") if (word := sound.value((*path, kind))) is not None]


def _unused_kinds(sound: _Sound) -> Iterator[Fault]:
    for path, _ in sound.items("topics"):
        event, kinds = ((*path, "mapping", key) for key in ("event", "kinds"))
        if sound.value((*event, "const")) is not None and sound.value(kinds) is not None:
            yield kinds, "expected no kinds where the event is a constant of the topic (found both)"


def _paths_that_cannot_be_read(sound: _Sound) -> Iterator[Fault]:
    for path, _ in sound.items("topics"):
        if sound.value((*path, "mapping")) is not None:
            yield from _path_faults({at: names for at, names in _field_paths(sound, (*path, "mapping")) if names})


def _field_paths(sound: _Sound, mapping: KeyPath) -> Iterator[tuple[KeyPath, list[str]]]:
    """Each field's key in the file, and the names of its path; a field that is left out is read at its own name."""
    for field in FIELDS:
        source = sound.value((*mapping, field), field)
        at = (*mapping, field, "path") if isinstance(source, dict) else (*mapping, field)
        found_path = sound.value(at) if isinstance(source, dict) else source
        yield at, found_path.split(".") if isinstance(found_path, str) else []


def _path_faults(paths: dict[KeyPath, list[str]]) -> Iterator[Fault]:
    for at, names in paths.items():
        if len(names) > _DEEPEST_PATH:
            yield at, f"expected a path of at most {_DEEPEST_PATH} names (found {len(names)})"
        if any(_UNNAMEABLE.search(name) for name in names):
            yield at, "expected a path without quotes, backslashes and control characters (found one)"
        for other, longer in paths.items():
            if len(longer) > len(names) and longer[: len(names)] == names:
                yield at, f"expected the path of a value (found that of an object, as {key_name(other)} says)"


_RULES = (
    _swapped_bounds,
    _no_room_for_a_socket,
    _unsorted_buckets,
    _topics_given_twice,
    _unused_kinds,
    _paths_that_cannot_be_read,
)
