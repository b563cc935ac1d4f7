"""Text from outside is shown so that it acts on nothing, and is still told apart by eye."""

import sys
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.hostile_text import SHOWN, unsafe
from txninsightd.visible_text import CUT, from_visible, visible, visible_json, visible_lines, visible_start

CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.lists(st.sampled_from(sorted(SHOWN)) | CHARACTERS, max_size=10).map("".join)
ANY = st.lists(TEXT | st.characters(categories=["Cs"]), max_size=4).map("".join)


@pytest.mark.parametrize("text", SHOWN, ids=ascii)
def test_each_class_is_shown_in_its_way(text: str) -> None:
    assert visible(text) == SHOWN[text]
    assert from_visible(visible(text)) == text


def test_what_is_replaced_are_controls_separators_halves_and_what_is_no_character() -> None:
    replaced = {character for character in map(chr, range(sys.maxunicode + 1)) if visible(character) != character}
    assert not any(character.isprintable() for character in replaced)
    by_category = {unicodedata.category(character) for character in replaced}
    assert by_category == {"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"}
    assert len(replaced) == 65 + 2 + 1 + 12 + 2048 + 32 + 34


@given(ANY)
def test_a_visible_text_is_one_line_of_utf8_and_stays_as_it_is(text: str) -> None:
    shown = visible(text)
    assert unsafe(shown) == set()
    assert shown.splitlines() == ([shown] if shown else [])
    assert shown.encode().decode() == shown
    assert visible(shown) == shown


@given(ANY, st.integers(1, 30))
def test_a_start_is_short_enough_and_cut_between_escapes(text: str, most: int) -> None:
    start = visible_start(text, most)
    assert len(start) <= most
    if len(visible(text)) <= most:
        assert start == visible(text)
    else:
        whole = start.removesuffix(CUT)
        assert whole + CUT == start
        assert any(whole == visible(text[:end]) for end in range(len(text)))


@given(TEXT)
def test_json_says_the_same_and_acts_on_nothing(text: str) -> None:
    document = visible_json(msgspec.json.encode({text: [text]}))
    assert msgspec.json.decode(document) == {text: [text]}
    assert all(ord(character) > 0xFFFF for character in unsafe(document.decode()))
    assert b"\n" not in document


def test_lines_stay_lines() -> None:
    assert visible_lines("Traceback:\n\tat x\r\n\x1b[2J") == "Traceback:\n        at x\\x0d\n\\x1b[2J"
