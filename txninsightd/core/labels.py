"""Bounded label values: whatever comes from events passes a cap before it becomes the value of a label.

The first values keep their names for good, restarts included; all later ones share `__overflow__`, and are counted.

A name is the value's visible form (visible_text.py). Values that look alike share it, and so are counted together. Only
names are kept, since a name has any number of values.
"""

from txninsightd.visible_text import visible
from txninsightd.vocabulary import OVERFLOW

UNNAMED = "unspecified"
"""The label value of what events leave out."""


PAIRS_A_VALUE = 5
"""So many pairs of type and step, or type and status, may have a name for each value that may have one."""


class LabelCap:
    """The first `most` distinct names stay, all later ones become `__overflow__`."""

    def __init__(self, most: int) -> None:
        self._most = most
        # By name, and so by value for nearly all values.
        self._known: dict[str | None, str] = {None: UNNAMED, "": UNNAMED}
        self.cut = 0

    def saved(self) -> tuple[list[str], int]:
        """The names, and how often one was cut."""
        return self.named, self.cut

    def restore(self, known: list[str], cut: int) -> None:
        """Go on with the names of before a restart; those that are named always stay named."""
        self._known.update({name: name for name in map(visible, known)})
        self.cut = cut

    @property
    def named(self) -> list[str]:
        """All names."""
        return [name for name in self._known if name]

    def name_at_most(self, most: int) -> None:
        """Name so many from now on; what has a name keeps it."""
        self._most = most

    def name(self, value: str) -> None:
        """Let this value keep its name from now on, if there is room. No event had it, so nothing is cut."""
        name = visible(value)
        if self._has_room():
            self._known.setdefault(name, name)

    def label(self, value: str | None) -> str:
        """The label of a value as things stand. It gets no name by this, and nothing is counted."""
        label = self._known.get(value)
        return label if label is not None else self._known.get(visible(value or ""), OVERFLOW)

    def __call__(self, value: str | None) -> str:
        """The label of a value, which gets a name if there is room."""
        label = self._known.get(value)
        return label if label is not None else self._label(visible(value or ""))

    def _label(self, name: str) -> str:
        if name in self._known:
            return name
        if not self._has_room():
            self.cut += 1
            return OVERFLOW
        self._known[name] = name
        return name

    def _has_room(self) -> bool:
        # The two of UNNAMED take none.
        return len(self._known) - 2 < self._most


class PairCap:
    """The same for the second of two labels, so that their product is bounded too: at most `most` pairs are named."""

    def __init__(self, most: int, second: LabelCap) -> None:
        self._most = most
        self._second = second
        self._known: dict[tuple[str, str | None], str] = {}
        self._cut = 0

    @property
    def cut(self) -> int:
        """How often a value was cut."""
        return self._cut + self._second.cut

    def saved(self) -> tuple[list[tuple[str, str | None, str]], int, list[str], int]:
        """The pairs that are named, how often one was not, and the same of the second label alone."""
        return (
            [(first, value, label) for (first, value), label in self._known.items()],
            self._cut,
            *self._second.saved(),
        )

    def restore(self, pairs: list[tuple[str, str | None, str]], cut: int, known: list[str], known_cut: int) -> None:
        """Go on with the names of before a restart."""
        self._known = {(visible(first), _visible(value)): visible(label) for first, value, label in pairs}
        self._cut = cut
        self._second.restore(known, known_cut)

    def name_at_most(self, most: int, most_second: int) -> None:
        """Name so many pairs, and values of the second, from now on; what has a name keeps it."""
        self._most = most
        self._second.name_at_most(most_second)

    def __call__(self, first: str, value: str | None) -> str:
        label = self._known.get((first, value))
        return label if label is not None else self._name(first, value)

    def _name(self, first: str, value: str | None) -> str:
        label, pair = self._second(value), (first, _visible(value))
        # Cut values are not kept, here or below: there may be any number of them.
        if label == OVERFLOW or pair in self._known:
            return label
        if len(self._known) >= self._most:
            self._cut += 1
            return OVERFLOW
        self._known[pair] = label
        return label


def _visible(value: str | None) -> str | None:
    return visible(value) if value is not None else None
