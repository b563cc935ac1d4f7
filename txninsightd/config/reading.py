"""From a YAML file to plain objects, with the line of every key.

PyYAML composes the file to nodes, which have lines, and this module walks through them. Duplicate keys, `${...}` that
cannot be filled in, and anything that is not plain YAML are noted as problems, and the walk goes on. Plain scalars are
read as in YAML 1.2: `true`, `false`, `null` and decimal numbers; all others are text, so that `no`, `12:30` and `010`
stay what the operator wrote. Keys are always text. An alias shares its anchor's value.

The work for a file is bounded: its bytes, its values as they are written, and its depth, its values and its characters
with all aliases followed and all `${...}` filled in.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from txninsightd.config.problems import MOST_PROBLEMS, KeyPath, Problem
from txninsightd.config.small_file import FileTooLarge, UnreadableFile, read_small_file
from txninsightd.config.substitution import Substitution, SubstitutionError

MOST_BYTES = 1 << 20
_DEEPEST = 20
_MOST_NODES = 100_000
_MOST_CHARACTERS = 4 * MOST_BYTES
_PASSED_THROUGH = ("kafka", "client")
_TAG = "tag:yaml.org,2002:"


class _Scalar(NamedTuple):
    form: re.Pattern[str]
    first_characters: list[str]
    read: Callable[[str], Any]


_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
# In this order: an int would also match as a float. A form is tried only on texts that begin with one of its
# characters; "" is the empty text.
_SCALARS = {
    f"{_TAG}null": _Scalar(re.compile(r"(?:~|null|Null|NULL|)\Z"), [*"~nN", ""], lambda _: None),
    f"{_TAG}bool": _Scalar(
        re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), [*"tTfF"], lambda text: text.lower() == "true"
    ),
    f"{_TAG}int": _Scalar(re.compile(r"[-+]?[0-9]+\Z"), [*"-+0123456789"], int),
    # YAML writes .inf and .nan, float() takes them without the dot; 1.e5 is 1e5.
    f"{_TAG}float": _Scalar(
        re.compile(rf"(?:{_FLOAT})\Z"), [*"-+.0123456789"], lambda text: float(re.sub(r"\.(?=[A-Za-z])", "", text))
    ),
}


class _TooLargeError(Exception):
    """More in it than in any real config: the text says what was expected."""


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with YAML 1.2's core scalars, and a bound: each node takes a kilobyte of memory."""

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As PyYAML's, counted. Raises _TooLargeError."""
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            raise _TooLargeError(f"expected at most {_MOST_NODES} values (found more)")
        return super().compose_node(parent, index)


# Emptied, since PyYAML would also try its own forms, which are those of YAML 1.1.
_Loader.yaml_implicit_resolvers = {}
for _tag, _scalar in _SCALARS.items():
    _Loader.add_implicit_resolver(_tag, _scalar.form, _scalar.first_characters)


class Reading:
    """A file as it was read: plain objects, the line of each path in them, and the faults met on the way.

    The values at the paths of `unread` are placeholders: their problems are already noted. Of very many problems the
    first `MOST_PROBLEMS` are kept; `has_more_problems` says that there were others. `filled_in`: what stood for each
    `${...}`.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.tree: Any = {}
        self.lines: dict[KeyPath, int] = {(): 1}
        self.problems: list[Problem] = []
        self.has_more_problems = False
        self.filled_in: frozenset[str] = frozenset()
        self.unread: set[KeyPath] = set()

    def fault(self, path: KeyPath, message: str, line: int | None = None) -> None:
        """Note a problem; without a line, at that of the path or of the nearest key around it."""
        if len(self.problems) >= MOST_PROBLEMS:
            self.has_more_problems = True
            return
        if line is None:
            line = next(self.lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.lines)
        self.problems.append(Problem(self.file, line, path, message))

    def unreadable(self, path: KeyPath, message: str, line: int) -> None:
        """Note that a value cannot be read; it gets no further problem."""
        self.unread.add(path)
        self.fault(path, message, line)


def read(path: Path, environ: Mapping[str, str]) -> Reading:
    """Read a config file. Never raises: the result's problems name what cannot be read."""
    reading = Reading(str(path))
    text = _text(path, reading)
    node = None if text is None else _compose(text, reading)
    if node is not None:
        substitution = Substitution(environ, path.parent)
        _Walk(reading, substitution).start(node)
        reading.filled_in = substitution.filled_in
    return reading


def _text(path: Path, reading: Reading) -> str | None:
    content = b""
    try:
        content = read_small_file(path, MOST_BYTES)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        reading.unreadable((), "expected UTF-8 text (found other bytes)", line)
    except FileTooLarge:
        reading.unreadable((), f"expected at most {MOST_BYTES} bytes (found more)", 1)
    except UnreadableFile as error:
        reading.unreadable((), f"expected a file to read ({error})", 1)
    return None


def _compose(text: str, reading: Reading) -> yaml.Node | None:
    line = 1
    try:
        loader = _Loader(text)
        try:
            node: yaml.Node | None = loader.get_single_node()
            return node
        finally:
            # The parser's position, for errors without a line of their own.
            line = loader.line + 1
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reading.unreadable((), "expected YAML (found a control character)", line)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reading.unreadable((), f"expected YAML ({_syntax(error)})", mark.line + 1 if mark else line)
    except _TooLargeError as error:
        reading.unreadable((), str(error), line)
    except RecursionError:
        reading.unreadable((), f"expected at most {_DEEPEST} levels (found more)", line)
    except (ValueError, OverflowError):
        reading.unreadable((), "expected YAML (found a number or an escape out of range)", line)
    return None


def _syntax(error: yaml.MarkedYAMLError) -> str:
    """Give the parser's message without the names it quotes: an unquoted password may look like an alias or a tag."""
    if (error.problem or "").endswith("cannot start any token"):
        if "\\t" in str(error.problem):
            return "found a tab: use spaces"
        return "found a text that begins with @, % or `: put it in quotes"
    words = ": ".join(part for part in (error.context, error.problem) if part)
    return re.sub(r"""\s(['"])(?!<)[^'"]{2,}\1""", "", words)


class _Walk:
    """Turns nodes into objects, in a reading."""

    def __init__(self, reading: Reading, substitution: Substitution) -> None:
        self._reading = reading
        self._substitution = substitution
        self._nodes = 0
        self._characters = 0

    def start(self, node: yaml.Node) -> None:
        self._reading.lines[()] = _line(node)
        try:
            self._reading.tree = self._value(node, ())
        except _TooLargeError as error:
            self._reading.unreadable((), str(error), _line(node))

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise _TooLargeError(f"expected at most {_MOST_NODES} values, aliases followed (found more)")
        if len(path) > _DEEPEST:
            return self._unread(node, path, f"expected at most {_DEEPEST} levels (found more, or an alias in itself)")
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return self._sequence(node, path)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        return self._unread(node, path, "expected plain YAML (found a tag: !...)")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.value:
            name = self._key(key, path)
            if name is None:
                continue
            inner = (*path, name)
            if name in values:
                twice = f"expected each key once (found again after line {self._reading.lines[inner]})"
                self._reading.fault(inner, twice, _line(key))
            self._reading.lines[inner] = _line(key)
            values[name] = self._value(value, inner)
        return values

    def _key(self, node: yaml.Node, path: KeyPath) -> str | None:
        if isinstance(node, yaml.ScalarNode) and _is_text(node.value):
            self._count(node.value)
            return str(node.value)
        self._reading.fault(path, "expected keys of plain text (found another kind)", _line(node))
        return None

    def _sequence(self, node: yaml.SequenceNode, path: KeyPath) -> list[Any]:
        values = []
        for index, item in enumerate(node.value):
            inner = (*path, index)
            self._reading.lines[inner] = _line(item)
            values.append(self._value(item, inner))
        return values

    def _count(self, text: str) -> None:
        """An alias repeats a long text, and a `${...}` fills one in, for a few bytes of the file."""
        self._characters += len(text)
        if self._characters > _MOST_CHARACTERS:
            raise _TooLargeError(f"expected at most {_MOST_CHARACTERS} characters, aliases followed (found more)")

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        self._count(node.value)
        if node.tag == f"{_TAG}str":
            return self._string(node, path)
        scalar = _SCALARS.get(node.tag)
        # Only an explicit tag can disagree with its text: !!int x.
        if scalar is None or not scalar.form.match(node.value):
            return self._unread(node, path, "expected plain YAML (found a tag: !...)")
        try:
            value = scalar.read(node.value)
        except ValueError:
            return self._unread(node, path, "expected a number of some digits (found thousands)")
        return node.value if path[:2] == _PASSED_THROUGH and _is_altered(value, node.value) else value

    def _string(self, node: yaml.ScalarNode, path: KeyPath) -> str:
        try:
            text = self._substitution.apply(node.value)
        except SubstitutionError as error:
            return self._unread(node, path, str(error))
        self._count(text)
        if not _is_text(text):
            return self._unread(node, path, "expected text (found a NUL or half a character)")
        return text

    def _unread(self, node: yaml.Node, path: KeyPath, message: str) -> str:
        self._reading.unreadable(path, message, self._reading.lines.get(path, _line(node)))
        return ""


def _is_altered(value: Any, text: str) -> bool:
    """Tell whether a number, written as text again, would differ: a password `007` is not 7."""
    return isinstance(value, int | float) and str(value).lower() != text.lower()


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
