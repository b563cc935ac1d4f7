"""Keeps secrets out of everything that is shown: logs, faults of the config, tracebacks, /readyz, systemd's status.

Two kinds of text are replaced by `***`:

- *Known values*: what was filled in for a `${...}` of the config, and what stands under a property that may hold a
  secret. Found are the whole value, its words (cut at spaces, quotes and the like: a library quotes one host of a
  list), and any part of `_PART` characters or more (a library cuts a long message). Values under `_SHORTEST` characters
  cannot be told from other text; they are hidden only where the key that they belong to is known.
- *Texts that say what they are*: what follows `password=`, `secret:`, `token=` and the like; user and password in a
  URL; `Bearer ...`; a private key in PEM.

Each process has one `Redaction`, set once by the parent before it forks. Redact before a text is shortened.
"""

import json
import re
from collections.abc import Iterable, MutableMapping
from typing import Any

from txninsightd.visible_text import visible

REDACTED = "***"

_SHORTEST = 4
_SHORTEST_WORD = 6
_PART = 12
_GRAM = 6  # (_PART + 1) // 2 at most: a part of _PART characters then holds a whole gram of the value
_MOST_PLACES = 8
_SEPARATORS = re.compile(r"""[\s"'`,;:=/@()\[\]{}<>|\\]+""")

# Repetitions are bounded, so that no text takes long.
_SECRET_NAME = (
    r"(?:(?:passw(?:or)?d|passphrase|pwd|secret|token|credential|(?:api|private|access|encryption)[._-]?key)[\w.-]{0,60}"
    r"|\bpass)"
)
_USER = r"""(?:[^\s/:@"'<>]{0,200}:[^\s"'<>]{0,300}|[^\s/"'<>]{0,300})(?=@)"""
# The value may be quoted, also with escaped quotes. The faults of the config go on with "expected" or "found".
_VALUE = r"""(?:\\?"(?:[^"\\]|\\[^"])*(?:\\?"|$)|'[^']*(?:'|$)|[^\s"'})\]]+)"""
_PATTERNS = (
    re.compile(rf"""(?i){_SECRET_NAME}\\?["']?\s*=\s*(?P<hidden>{_VALUE})"""),
    re.compile(rf"""(?i){_SECRET_NAME}\\?["']?\s{{0,5}}:\s*(?!expected |found |\s)(?P<hidden>{_VALUE})"""),
    re.compile(r"(?i)\b(?:bearer|basic)\s+(?P<hidden>[A-Za-z0-9+/=._~-]{8,})"),
    re.compile(rf"\b[A-Za-z][A-Za-z0-9+.-]{{0,20}}://(?P<hidden>{_USER})"),
    re.compile(r"(?P<hidden>-----BEGIN [A-Z ]{0,40}KEY-----.*?(?:-----END [A-Z ]{0,40}KEY-----|\Z))", re.DOTALL),
)
_OF_THE_PROGRAM = frozenset({"event", "level", "timestamp", "process"})
"""Fields of a log line whose values the code alone decides."""


def without_marked(text: str) -> str:
    """Replace what a text itself marks as secret."""
    return Redaction().clean(text)


class Redaction:
    """Replaces known values, too. Parts are found through every `_GRAM`-th run of characters of the values."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        # Also as texts show them: escaped by repr, as JSON, for a terminal.
        shown = {form for v in values for form in (v, repr(v)[1:-1], json.dumps(v)[1:-1], visible(v))}
        self._values = sorted({v for v in shown if len(v) >= _SHORTEST}, key=len, reverse=True)
        self._words = {word for v in self._values for word in _SEPARATORS.split(v) if len(word) >= _SHORTEST_WORD}
        self._grams: dict[str, list[tuple[str, int]]] = {}
        for value in self._values:
            for at in range(0, len(value) - _GRAM + 1, _GRAM):
                places = self._grams.setdefault(value[at : at + _GRAM], [])
                # A value that repeats itself is found by its first places.
                if len(places) < _MOST_PLACES:
                    places.append((value, at))

    def clean(self, text: str) -> str:
        """The text with `***` in the place of secrets."""
        hidden = bytearray(len(text))
        # Both on the text as it is: what the one hides may be the sign that the other looks for.
        for pattern in _PATTERNS:
            for found in pattern.finditer(text):
                start, end = found.span("hidden")
                hidden[start:end] = b"\1" * (end - start)
        if self._values:
            self._hide_known(text, hidden)
        return _replaced(text, hidden) if any(hidden) else text

    def _hide_known(self, text: str, hidden: bytearray) -> None:
        for value in self._values:
            _hide_whole(text, value, hidden)
        at = 0
        for word in _SEPARATORS.split(text):
            at = text.index(word, at)
            if word in self._words:
                hidden[at : at + len(word)] = b"\1" * len(word)
            at += len(word)
        for at in range(len(text) - _GRAM + 1):
            for value, inside in self._grams.get(text[at : at + _GRAM], ()):
                if not (hidden[at] and hidden[at + _GRAM - 1]):
                    _hide_part(text, at, value, inside, hidden)


def _hide_whole(text: str, value: str, hidden: bytearray) -> None:
    at = text.find(value)
    while at >= 0:
        end = at + len(value)
        # A short value within a longer word is no sign of it.
        alone = not (text[at - 1 : at].isalnum() or text[end : end + 1].isalnum())
        if alone or len(value) >= _SHORTEST_WORD:
            hidden[at:end] = b"\1" * (end - at)
        at = text.find(value, at + 1)


def _hide_part(text: str, at: int, value: str, inside: int, hidden: bytearray) -> None:
    """Extend a gram that both have as far as both agree; long enough, it is a part of the value."""
    begin, end = at, at + _GRAM
    shift = inside - at
    while begin > 0 and begin + shift > 0 and text[begin - 1] == value[begin + shift - 1]:
        begin -= 1
    while end < len(text) and end + shift < len(value) and text[end] == value[end + shift]:
        end += 1
    if end - begin >= _PART:
        hidden[begin:end] = b"\1" * (end - begin)


def _replaced(text: str, hidden: bytearray) -> str:
    parts, at = [], 0
    for run in re.finditer(b"\1+", hidden):
        parts += [text[at : run.start()], REDACTED]
        at = run.end()
    return "".join([*parts, text[at:]])


_present = Redaction()


def hide(values: Iterable[str]) -> None:
    """Hide these values from now on, in this process and those that it forks."""
    global _present
    _present = Redaction(values)


def clean(text: str) -> str:
    """The text without the secrets of this process."""
    return _present.clean(text)


def in_log_line(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog's: redact the fields, after exceptions have become texts."""
    for name, value in fields.items():
        if name not in _OF_THE_PROGRAM:
            fields[name] = _clean_value(value)
    return fields


def _clean_value(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {name: _clean_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean_value(item) for item in value]
    return value if value is None or isinstance(value, int | float) else clean(str(value))
