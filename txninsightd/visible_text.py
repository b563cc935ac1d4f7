r"""Text from outside, made safe to show: in labels, exemplars, log lines, terminals and answers.

Events may say anything. A NUL in a label makes Prometheus refuse the whole page, an escape sequence acts on the
operator's terminal, a line break forges a log line, and a bidirectional control shows text in another order than it
has. `visible` replaces these characters with what Python would write for them: `\x00`, `\u2028`, `\U0001fffe`. All
other text, also private-use, combining and joining characters, stays as it is.

A backslash stays as well: `C:\dir` is shown as `C:\dir`. So `visible` may be applied to its own result, which lets
every layer be safe by itself, and repairs names that an older version saved. The price: a value with a NUL looks like
one with the four characters `\x00`, and both share one label.

None of this is done for each event: a label is made once for each value (core/labels.py), an exemplar at each scrape,
the rest when it is shown.
"""

import json
import re
from functools import cache

_CONTROLS = r"\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
_SEPARATORS = r"\u2028\u2029\ufeff"
_BIDIRECTIONAL = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_SURROGATES = r"\ud800-\udfff"  # as characters they are half of one, and no encoding to UTF-8 takes them
_NONCHARACTERS = r"\ufdd0-\ufdef\ufffe\uffff"
_IN_PLANE_0 = _CONTROLS + _SEPARATORS + _BIDIRECTIONAL + _SURROGATES + _NONCHARACTERS
_ABOVE = "".join(f"\\U{plane:04x}fffe\\U{plane:04x}ffff" for plane in range(1, 17))
# All of these are not printable in Python's sense, which is checked first, since that is much faster.
_UNSAFE = re.compile(f"[{_IN_PLANE_0}{_ABOVE}]")
# Ten times as fast over large answers. What is left out does nothing in a terminal.
_UNSAFE_IN_JSON = re.compile(f"[{_IN_PLANE_0}]")

_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u(?!d[89a-f])[0-9a-f]{4}|U00(?:0[0-9a-f]|10)[0-9a-f]{4})")

CUT = "…"
"""What ends a text that was cut."""


def visible(text: str) -> str:
    """The text with visible escapes for unsafe characters: valid UTF-8, and one line."""
    return text if text.isprintable() else _UNSAFE.sub(lambda unsafe: _escape(unsafe[0]), text)


def visible_lines(text: str) -> str:
    """The same for a text of several lines (a traceback), which keeps its line breaks."""
    return text if text.isprintable() else "\n".join(map(visible, text.expandtabs().split("\n")))


def visible_start(text: str, most: int) -> str:
    """A visible text of at most `most` characters. A longer one ends with `CUT`, never within an escape."""
    start = visible(text[: most + 1])
    if len(start) <= most:
        return start
    shown, room = "", most - len(CUT)
    for character in map(visible, text):
        if len(shown) + len(character) > room:
            break
        shown += character
    return shown + CUT


def from_visible(text: str) -> str:
    """What a visible text may have been made from: whoever reads an id in a terminal gives it back in this form."""
    return _ESCAPE.sub(lambda escape: chr(int(escape[0][2:], 16)), text)


def visible_json(document: bytes) -> bytes:
    """The same JSON, in which unsafe characters are escaped as JSON does it. A decoder gives the exact text."""
    if document.isascii() and b"\x7f" not in document:
        # Valid JSON holds no other control of ASCII, and ours holds no line break.
        return document
    text = document.decode()
    if text.isprintable():
        return document
    return _UNSAFE_IN_JSON.sub(lambda unsafe: _json_escape(unsafe[0]), text).encode()


@cache
def _escape(unsafe: str) -> str:
    code = ord(unsafe)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


@cache
def _json_escape(unsafe: str) -> str:
    return json.dumps(unsafe)[1:-1]
