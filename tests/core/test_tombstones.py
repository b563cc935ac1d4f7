"""What is remembered of transactions that are over: nothing is known of a stranger, and memory is bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txninsightd.core import tombstones
from txninsightd.core.tombstones import GENERATIONS, Tombstones, hash_of

names = st.integers(0, 12).map("t{}".format)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), names, st.booleans(), st.integers(0, 3)),
        st.tuples(st.just("age"), st.just(""), st.just(False), st.integers(0, 30)),
    ),
    max_size=80,
)


@pytest.mark.parametrize("sorted_a_step", [10_000, 1], ids=["sorted at once", "sorted in many steps"])
@given(told=actions, most=st.sampled_from([8, 16, 80]))
def test_it_knows_the_last_word_of_each_or_nothing(
    sorted_a_step: int, told: list[tuple[str, str, bool, int]], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tombstones, "SORTED_A_STEP", sorted_a_step)
        patch.setattr(tombstones, "STEPS_A_TICK", 1)
        patch.setattr(tombstones, "TOMBSTONES_A_STEP", 1)
        _tell(told, most)


def _tell(told: list[tuple[str, str, bool, int]], most: int) -> None:
    remembered = Tombstones(remember_s=80, most=most)
    plain: dict[str, tuple[bool, float]] = {}
    now = 0.0
    for what, name, aborted, passed in told:
        now += passed
        if what == "add":
            remembered.add(name, aborted, now)
            plain[name] = (aborted, now)
        else:
            remembered.age(now)
        for known, (bit, at) in plain.items():
            said = remembered.was_aborted(known)
            assert said == bit or (said is None and (now - at > 80 or len(remembered) >= most - most // GENERATIONS))
        assert len(remembered) <= most
        assert remembered.was_aborted("a stranger") is None
        again = Tombstones(remember_s=80, most=most)
        again.restore(dict(remembered.young), remembered.young_since, remembered.sealed)
        assert [again.was_aborted(known) for known in plain] == [remembered.was_aborted(known) for known in plain]
        assert len(again) == len(remembered)


def test_while_a_large_generation_is_sorted_it_is_like_any_other() -> None:
    count = 20_000
    remembered, by_s = Tombstones(remember_s=80, most=8 * count), -3600.0
    for i in range(count):
        remembered.add(f"t{i}", i % 3 == 0, now=5000)
    assert remembered.being_sorted == count
    remembered.move_moments(lambda moment: moment + by_s)
    remembered.add("later", False, now=1400)
    assert remembered.keep(80, 8 * count) == 0
    remembered.age(1480)
    assert remembered.was_aborted("t3") is True
    remembered.age(1481)
    assert remembered.was_aborted("t3") is None, "it is 81 s old"
    assert remembered.was_aborted("later") is False
    remembered.age(1482)
    assert remembered.being_sorted == 0, "what was behind it is sorted"


def test_with_less_room_what_is_being_sorted_is_forgotten_too() -> None:
    count = 20_000
    remembered = Tombstones(remember_s=80, most=8 * count)
    for i in range(count + 1):
        remembered.add(f"t{i}", False, now=0)
    assert remembered.keep(80, 80) == count
    assert len(remembered) == 1


def test_a_large_generation_is_sorted_with_the_tombstones_that_follow() -> None:
    remembered, count = Tombstones(remember_s=80, most=8 * 50_000), 50_000
    for i in range(count):
        remembered.add(f"t{i}", i % 3 == 0, now=0)
    ages = []
    for i in range(10_000):
        remembered.add(f"later{i}", False, now=1)
        is_sorted = not remembered.being_sorted
        if not is_sorted or not ages or not ages[-1]:
            ages.append(is_sorted)
    assert not ages[0], "it is not sorted at once"
    assert ages[-1], "it is sorted in the end"
    assert all(remembered.was_aborted(f"t{i}") == (i % 3 == 0) for i in range(count))
    (generation,) = remembered.sealed
    assert list(generation.hashes) == sorted(generation.hashes)
    assert len(generation.hashes) == count


def test_who_is_young_enough_is_known() -> None:
    remembered = Tombstones(remember_s=80, most=10**6)
    remembered.add("t", True, now=0)
    for now in range(0, 80, 5):
        remembered.age(now)
        remembered.add(f"other{now}", False, now)
        assert remembered.was_aborted("t") is True
    remembered.age(80 + 80 / GENERATIONS + 6)
    assert remembered.was_aborted("t") is None


def test_a_second_life_overrides_the_first_over_generations() -> None:
    remembered = Tombstones(remember_s=1000, most=8)
    remembered.add("t", True, now=0)  # seals a generation of its own
    remembered.add("t", False, now=1)
    assert remembered.was_aborted("t") is False


def test_with_less_room_the_oldest_go_a_generation_at_a_time_and_all_are_counted() -> None:
    remembered = Tombstones(remember_s=1e9, most=64_000)
    for i in range(7_000):
        remembered.add(f"before{i}", False, i)
    forgotten = remembered.keep(1e9, 800)
    assert forgotten == 7_000 - len(remembered)
    for i in range(1_000):
        at_once = remembered.add(f"after{i}", False, 7_000 + i)
        assert at_once <= 100
        assert 600 <= len(remembered) <= 800
        forgotten += at_once
    assert forgotten == 8_000 - len(remembered)


def test_every_process_hashes_alike() -> None:
    assert hash_of("order-1") == 0x2599000E8C1B023C
    assert hash_of("order-1") % 2 == 0  # room for the bit
    assert hash_of("order-1") != hash_of("order-2")
    assert 0 <= hash_of("") < 2**64
