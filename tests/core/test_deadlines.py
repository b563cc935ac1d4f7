"""The wheel of deadlines gives the same as a plain list of them."""

from collections.abc import Callable
from time import process_time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from txninsightd.core.deadlines import MOST_STALE, Bucket, Deadlines, Wheel, drop


class Item:
    """Something that waits."""

    def __init__(self) -> None:
        self.bucket: Bucket | None = None
        self.due_at = 0.0


ahead = st.integers(-4, 40).map(lambda quarter: quarter / 4)
actions = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 4), ahead),
    st.tuples(st.just("drop"), st.integers(0, 4), st.just(0.0)),
    st.tuples(st.just("due"), st.just(0), st.integers(0, 8).map(lambda quarter: quarter / 4)),
)


@given(st.lists(actions, max_size=60))
def test_due_are_just_those_whose_deadline_has_passed(told: list[tuple[str, int, float]]) -> None:
    wheel: Deadlines[Item] = Deadlines()
    items = [Item() for _ in range(5)]
    plain: dict[Item, float] = {}
    now = 0.0
    for what, number, moment in told:
        item = items[number]
        if what == "set":
            wheel.set(item, now + moment)
            plain[item] = now + moment
        elif what == "drop":
            drop(item)
            plain.pop(item, None)
        else:
            now += moment
            due = wheel.due(now)
            assert len(set(due)) == len(due)
            assert set(due) == {i for i, at in plain.items() if at < now}
            for i in due:
                assert i.bucket is None
                del plain[i]
        assert {i for i in items if i.bucket is not None} == plain.keys()


def test_nothing_is_left_once_all_fell_due() -> None:
    wheel: Deadlines[Item] = Deadlines()
    for second in range(100):
        wheel.set(Item(), second / 3)
    assert len(wheel.due(1000)) == 100
    assert wheel.earliest() is None
    assert wheel.kept_seconds == 0


def test_a_deadline_may_lie_before_the_epoch() -> None:
    wheel: Deadlines[Item] = Deadlines()
    item = Item()
    wheel.set(item, -0.5)
    assert wheel.due(-0.5) == []  # strictly before
    assert wheel.due(0) == [item]


def test_a_deadline_may_be_moved_either_way() -> None:
    wheel: Deadlines[Item] = Deadlines()
    sooner, later = Item(), Item()
    wheel.set(sooner, 100)
    wheel.set(sooner, 5)
    wheel.set(later, 5)
    wheel.set(later, 100)
    assert wheel.due(6) == [sooner]
    assert wheel.due(101) == [later]


def test_a_crowded_second_is_emptied_in_steps_of_one_cost() -> None:
    crowd = dict.fromkeys(range(50_000))

    def emptying(bucket: dict[Any, None], pop: Callable[[], Any]) -> float:
        bucket.update(crowd)
        began = process_time()
        while bucket:
            pop()
        return process_time() - began

    plain: dict[Any, None] = {}
    plain_s = min(emptying(plain, plain.popitem) for _ in range(3))
    wheel = Wheel()
    bucket_s = min(emptying(bucket, bucket.pop_one) for bucket in map(wheel.bucket, range(3)))
    assert bucket_s < 30 * plain_s  # 3 times; well over 100 times where each step goes over all those before it
    assert wheel.earliest() is None


def test_seconds_of_which_nothing_is_left_are_bounded() -> None:
    wheel: Deadlines[Item] = Deadlines()
    for second in range(50_000):
        item = Item()
        wheel.set(item, second)
        if second % 100:
            drop(item)
        assert wheel.kept_seconds <= 2 * (second // 100 + 2) + MOST_STALE
