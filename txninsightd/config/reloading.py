"""Which changes of the config file a running daemon applies at a reload, and which need a restart.

`EFFECTS` alone decides that, by key; the effect of a key also holds for the keys below it that have none of their own.
A reload gives a config with the live keys of the file and the other keys of the start, and the names of all keys that
differ: those that apply now, and those that wait for a restart. A key waits as long as the file and the running daemon
differ, so each reload names it again.

Only names are reported, never values: they may be secrets.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from txninsightd.config.loading import load_config
from txninsightd.config.model import NOT_OF_THE_FILE, Config
from txninsightd.config.problems import KeyPath, key_name, one_line


class Effect(StrEnum):
    """When a changed key takes effect."""

    LIVE = "at a reload"
    RESTART = "at a restart"


EFFECTS = {
    "kafka": Effect.RESTART,  # clients are built once in each process
    "topics": Effect.RESTART,  # records that were read with one mapping are not read again with another
    "start": Effect.RESTART,
    "readers": Effect.RESTART,
    "http": Effect.RESTART,
    "events": Effect.LIVE,
    "events.colocated": Effect.RESTART,  # watermark and settlement work differently
    "state": Effect.LIVE,
    "state.directory": Effect.RESTART,
    "stuck": Effect.LIVE,
    "objective": Effect.LIVE,
    "transaction_types": Effect.LIVE,
    "metrics": Effect.RESTART,  # a histogram cannot change its buckets
    "limits": Effect.LIVE,
    "limits.prefetch_bytes": Effect.RESTART,  # a property of the Kafka clients
    "supervise": Effect.RESTART,
    "log": Effect.LIVE,
    "discovery": Effect.RESTART,
}


MOST_NAMES = 100
"""How many changed keys are named."""


class Reloaded(NamedTuple):
    """The config to go on with, and what has changed: the names of keys, in the order of the model."""

    config: Config
    applied: list[str]
    needs_restart: list[str]


def reload_config(running: Config, path: Path, environ: Mapping[str, str]) -> Reloaded:
    """Read the file again. Raises ConfigError with every fault; `running` then stays in force."""
    return merge(running, load_config(path, environ))


def merge(running: Config, wanted: Config) -> Reloaded:
    """Take the live keys of the wanted config."""
    changed = list(_differences(running, wanted, ()))
    applied = [path for path in changed if effect_of(path) is Effect.LIVE]
    merged = running
    # A section is a struct, and its keys are replaced one by one; transaction_types is a dict, and replaced whole.
    for path in {path[:2] if path[0] != "transaction_types" else path[:1] for path in applied}:
        merged = _with(merged, wanted, path)
    waiting = [one_line(key_name(path)) for path in changed if effect_of(path) is Effect.RESTART]
    # `filled_in` stays that of the start: a live key is a number or one of a few known words.
    return Reloaded(merged, _some([one_line(key_name(path)) for path in applied]), _some(waiting))


def _some(names: list[str]) -> list[str]:
    """As many names as a line of the log may have."""
    more = len(names) - MOST_NAMES
    return names if more <= 0 else [*names[:MOST_NAMES], f"and {more} more"]


def effect_of(path: KeyPath) -> Effect:
    """When a change of this key takes effect. Raises KeyError for an unknown key."""
    for end in range(len(path), 0, -1):
        effect = EFFECTS.get(key_name(path[:end]))
        if effect is not None:
            return effect
    raise KeyError(key_name(path))


def _differences(old: Any, new: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The deepest keys that differ; a list is one key."""
    if old == new:
        return
    before, after = _children(old, path), _children(new, path)
    if before is None or after is None:
        yield path
        return
    for name in [*before, *(name for name in after if name not in before)]:
        if name not in before or name not in after:
            yield (*path, name)
        else:
            yield from _differences(before[name], after[name], (*path, name))


def _children(value: Any, path: KeyPath) -> dict[str, Any] | None:
    if path == ("start",):
        return None  # one text in the file
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__ if name not in NOT_OF_THE_FILE}
    return value if isinstance(value, dict) else None


def _with(config: Config, wanted: Config, path: KeyPath) -> Config:
    """The config with one key of another."""
    section, *inner = (str(part) for part in path)
    value = getattr(wanted, section)
    if inner:
        value = msgspec.structs.replace(getattr(config, section), **{inner[0]: getattr(value, inner[0])})
    return msgspec.structs.replace(config, **{section: value})
