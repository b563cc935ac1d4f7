"""What is done to valid input, so that most of it stays valid: to bytes, and to trees of plain objects.

A tree is changed by *edits*, which can be written down as JSON and applied again: `set` puts another value in a place,
`drop` removes it, `number` changes one number of a packed column, `cut` shortens one. To give every field the same
chance, however often it stands in the tree, a place is chosen by its shape first (`partitions.*.monitor_offset`), and
then among those of that shape.
"""

import copy
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.harness.core.worlds import Chooser, chance, pick

Where = tuple[str | int, ...]

NUMBERS: list[Any] = [0, 1, -1, 7, 255, 2**31, 2**40, 10**12, 2**62, 2**63 - 1, 2**64 - 1, -(2**31), -(2**63)]
FLOATS: list[Any] = [0.0, -0.0, 0.5, -1.5, 1e18, -1e18, 1.7e308, 5e-324, float("nan"), float("inf"), float("-inf")]
TEXTS: list[Any] = ["", "x", "open", "closed", "\x00", "é" * 40, "x" * 5000]
OTHERS: list[Any] = [None, True, False, b"", b"\xff" * 8, b"\xff" * 13, [], {}, [[]], [0], {"x": 0}, {0: {}}]
VALUES = [*NUMBERS, *FLOATS, *TEXTS, *OTHERS]

PACKED: dict[str, list[Any]] = {"I": [0, 1, 99, 2**32 - 1], "q": [0, 1, -1, 2**62, 2**63 - 1, -(2**63)], "d": FLOATS}
"""Numbers that a column of this kind may hold."""


class Edit(NamedTuple):
    """One change of a tree. `what`: the value of `set`; (kind, index, number) of `number`; the bytes of `cut`."""

    where: Where
    how: str
    what: Any = None


# --- Trees ------------------------------------------------------------------------------------------------------------


def refs(tree: Any, where: Where = ()) -> Iterator[Where]:
    """Every place in a tree but the root."""
    items: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in items:
        yield (*where, name)
        yield from refs(value, (*where, name))


def by_shape(tree: Any) -> list[list[Where]]:
    """The places, those of one shape together; keys that are data count as one shape."""
    shapes: dict[Where, list[Where]] = {}
    for where in refs(tree):
        shape = tuple("*" if isinstance(part, int) else part for part in where)
        shapes.setdefault(shape, []).append(where)
    return list(shapes.values())


def at(tree: Any, where: Where) -> Any:
    """What stands there."""
    for part in where:
        tree = tree[part]
    return tree


def edited(tree: Any, edits: list[Edit]) -> Any:
    """A copy of the tree with these edits. An edit whose place is gone by then does nothing."""
    tree = copy.deepcopy(tree)
    for edit in edits:
        *outer, last = edit.where
        try:
            holder = at(tree, tuple(outer))
            holder[last]
        except (LookupError, TypeError):
            continue
        if isinstance(holder, dict | list):
            _apply(holder, last, edit)
    return tree


def _apply(holder: Any, last: str | int, edit: Edit) -> None:
    if edit.how == "drop":
        del holder[last]
    elif edit.how == "set":
        holder[last] = copy.deepcopy(edit.what)
    elif isinstance(holder[last], bytes):
        holder[last] = _repacked(holder[last], edit)


def _repacked(column: bytes, edit: Edit) -> bytes:
    if edit.how == "cut":
        return column[: -edit.what]
    kind, index, number = edit.what
    numbers = array(kind)
    if len(column) % numbers.itemsize or not column:
        return column
    numbers.frombytes(column)
    numbers[index % len(numbers)] = number
    return numbers.tobytes()


def some_edits(c: Chooser, tree: Any) -> list[Edit]:
    """One to three edits."""
    shapes = by_shape(tree)
    return [_some_edit(c, tree, shapes) for _ in range(c.integer(1, 3))]


def _some_edit(c: Chooser, tree: Any, shapes: list[list[Where]]) -> Edit:
    where = pick(c, pick(c, shapes))
    value = at(tree, where)
    if isinstance(value, bytes) and chance(c, 80):
        kind = pick(c, list(PACKED))
        if chance(c, 20):
            return Edit(where, "cut", pick(c, (1, 4, 8)))
        return Edit(where, "number", (kind, c.integer(0, 20), pick(c, PACKED[kind])))
    how = c.integer(0, 9)
    if how == 0:
        return Edit(where, "drop")
    if how <= 2:  # what stands elsewhere
        return Edit(where, "set", at(tree, pick(c, pick(c, shapes))))
    if how <= 6 and isinstance(value, int | float | str):  # its own type
        return Edit(where, "set", pick(c, TEXTS if isinstance(value, str) else NUMBERS + FLOATS))
    return Edit(where, "set", pick(c, VALUES))


# --- Bytes ------------------------------------------------------------------------------------------------------------


def mutated(c: Chooser, data: bytes, others: list[bytes], words: list[bytes]) -> bytes:
    """One to four changes: bits flipped, cuts, repetitions, pieces of others, words of the format."""
    for _ in range(c.integer(1, 4)):
        data = _change(c, data, others, words)
    return data


def _change(c: Chooser, data: bytes, others: list[bytes], words: list[bytes]) -> bytes:
    start = c.integer(0, len(data))
    end = min(len(data), start + pick(c, (0, 1, 2, 8, 40, 400)))
    match c.integer(0, 5):
        case 0:
            flipped = bytes(byte ^ 1 << c.integer(0, 7) for byte in data[start : start + 1])
            return data[:start] + flipped + data[start + 1 :]
        case 1:
            return data[:start] + data[end:]
        case 2:
            return data[:end] + data[start:end] * c.integer(1, 3) + data[end:]
        case 3:
            other = pick(c, others)
            begin = c.integer(0, len(other))
            return data[:start] + other[begin : begin + c.integer(0, 60)] + data[end:]
        case 4:
            return data[:start]
        case _:
            return data[:start] + pick(c, words) + data[end:]
