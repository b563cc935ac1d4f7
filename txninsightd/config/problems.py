"""The faults of a config file, each with what was expected, so that the operator knows what to change.

A problem is one line: `FILE:LINE: PATH.OF.KEY: what was expected (what was found)`. It shows nothing that may be a
secret: no value that came from a substitution, no value under `kafka.client`, and nothing that a text itself marks as a
secret (`password=...`).
"""

from typing import Any, NamedTuple

from txninsightd.config.model import Secret
from txninsightd.redaction import without_marked

KeyPath = tuple[str | int, ...]
"""The keys and list indexes that lead to a value, from the outside in."""

MOST_PROBLEMS = 100
"""How many faults of a file are shown."""

_SHOWN_CHARACTERS = 60


class Problem(NamedTuple):
    """One fault. `line` counts from 1; `path` is empty for the file as a whole."""

    file: str
    line: int
    path: KeyPath
    message: str

    def __str__(self) -> str:
        return one_line(f"{self.file}:{self.line}: {key_name(self.path)}: {self.message}")


class ConfigError(Exception):
    """The config file cannot be used. `problems` holds every fault found, in the order of their lines."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))

    @property
    def of_the_whole(self) -> bool:
        """Whether the one fault is that the file cannot be read at all."""
        return len(self.problems) == 1 and not self.problems[0].path


def key_name(path: KeyPath) -> str:
    """Write a path as `topics[0].mapping.ts`."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{shortened(without_marked(part))}" for part in path)
    return name.removeprefix(".") or "(file)"


def found(path: KeyPath, value: Any) -> str:
    """Describe a value, without showing a possible secret."""
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, Secret):
        return "a substituted text, not shown"
    if path[:2] == ("kafka", "client"):
        return "not shown"
    if isinstance(value, bool):
        return str(value).lower()
    return shortened(without_marked(repr(value)))


def one_line(text: str) -> str:
    """Escape characters that would break a line or a terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def shortened(text: str) -> str:
    """The first characters of a long text."""
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
