"""The property: a life keeps its key when its records are read again, and no other life has it.

A random world is read once, with checkpoints on the way. Then everything is read again from one of the checkpoints, or
from the beginning with no state at all: cut into other messages, with the partitions in another order, and hours later,
so that settlement waits for longer and what was late in the first run belongs to a life in the second.
"""

from typing import NamedTuple

import msgspec
import pytest

from tests.harness.core.by_hand import CLOSE, OPEN, STEP_DONE, STEP_OPEN, A, B, cover, discover, ev, sight
from tests.harness.core.core import Core
from tests.harness.core.side_by_side import new_core
from tests.harness.core.styles import STYLES
from tests.harness.core.worlds import (
    ORDERS,
    Chooser,
    Message,
    Seeded,
    Sent,
    Style,
    World,
    arrive,
    make_rules,
    make_world,
    nows,
    pick,
    read_world,
    reread,
)
from txninsightd.core.events import Judged, closes
from txninsightd.core.facts import Settled
from txninsightd.core.life_key import LifeKey
from txninsightd.vocabulary import Coverage, Discovery, Outcome, PartitionRef, Sightings, Verdict

HOURS_S = 10_000.0
CHECKED = ("plain", "colocated", "impatient", "large", "large-colocated", "odd-clocks", "breached")

Position = tuple[PartitionRef, int]


class Life(NamedTuple):
    """A settled life. `decided`: the positions of its committed and unknown closes; `unknown`: of the unknown ones."""

    key: LifeKey
    outcome: Outcome
    events: frozenset[Position]
    decided: frozenset[Position]
    unknown: frozenset[Position]


def life_of(fact: Settled) -> Life:
    life = fact.finished.life
    decided = closes(life, Verdict.COMMITTED, Verdict.UNKNOWN)
    unknown = closes(life, Verdict.UNKNOWN)
    return Life(fact.key, fact.finished.outcome, _positions(life), _positions(decided), _positions(unknown))


def _positions(life: list[Judged]) -> frozenset[Position]:
    return frozenset((j.event.ref, j.event.offset) for j in life)


def play(core: Core, messages: list[Sent], settle_every: int = 1) -> None:
    now = 0.0
    for i, (now, message) in enumerate(nows(messages)):
        core.apply(message, now)
        if i % settle_every == 0:
            core.settle(now)
            core.tick(now)
    core.settle(now)


def later(sent: Sent) -> Sent:
    """The same message, from a reader that works hours later on the same records."""
    message = sent.message
    replace = msgspec.structs.replace
    if isinstance(message, Sightings):
        message = replace(message, read_at=message.read_at + HOURS_S, as_of=_later(message.as_of))
    elif isinstance(message, Coverage):
        message = replace(message, decided_at=message.decided_at + HOURS_S, as_of=_later(message.as_of))
    else:
        message = replace(message, asked_at=message.asked_at + HOURS_S)
    return Sent(sent.at + HOURS_S, message)


def _later(as_of: float) -> float:
    return as_of + HOURS_S if as_of else 0.0


class Readings(NamedTuple):
    """The lives of one world as two readings settle them."""

    first: list[Life]
    again: list[Life]


def read_twice(c: Chooser, world: World, style: Style) -> Readings:
    streams = read_world(c, world, style)
    messages = arrive(c, streams, pick(c, ORDERS))
    core, looked_at = new_core(world), 0.0
    snapshots = [(core.chunks(), looked_at)]
    for i, (now, message) in enumerate(nows(messages)):
        core.apply(message, now)
        core.settle(now)
        core.tick(now)
        if isinstance(message, Discovery):
            looked_at = message.asked_at
        if i % 5 == 0:
            snapshots.append((core.chunks(), looked_at))
    second = Core(world.rules, world.start_at)
    snapshot, looked_at = pick(c, snapshots)
    second.restore(snapshot)
    again = [[later(sent) for sent in stream] for stream in reread(c, world, streams, looked_at)]
    play(second, arrive(c, again, pick(c, ORDERS)), settle_every=pick(c, (1, 3, 7)))
    return Readings([life_of(fact) for fact in core.settled], [life_of(fact) for fact in second.settled])


def hold(readings: Readings) -> tuple[int, int]:
    """Check one world; how many pairs were the same life, and of how many that could not be said."""
    for lives in readings:
        assert len({life.key for life in lives}) == len(lives)
    same = other = 0
    for life in readings.first:
        for reread_life in readings.again:
            if not life.events & reread_life.events:
                assert life.key != reread_life.key
            elif is_same(life, reread_life):
                assert life.key == reread_life.key
                same += 1
            else:
                other += 1
    return same, other


def is_same(life: Life, again: Life) -> bool:
    """Whether these are one life by their own records: late events, and an aborted first attempt, may come on top."""
    if (life.unknown ^ again.unknown) & life.events & again.events:
        return False  # its topic was deleted meanwhile: only one of the readings could still read the verdict
    if not life.decided or not again.decided:
        return life.events == again.events
    # All that decides lies in one partition, so both go by it.
    return len({ref for ref, _ in life.decided | again.decided}) == 1


@pytest.mark.parametrize("style", CHECKED)
def test_a_life_keeps_its_key_when_its_records_are_read_again(style: str) -> None:
    calm = STYLES[style]._replace(monitor_gaps=False, outages=False)
    same = other = 0
    for seed in range(60):
        c = Seeded(seed)
        one, none = hold(read_twice(c, make_world(c, calm), calm))
        same, other = same + one, other + none
    assert same > 30
    assert same > 4 * other  # the property is about nearly all that is read


@pytest.mark.full
@pytest.mark.parametrize("style", CHECKED)
def test_very_many_lives_keep_their_keys(style: str) -> None:
    calm = STYLES[style]._replace(monitor_gaps=False, outages=False)
    same = other = 0
    for seed in range(1000, 5000):
        c = Seeded(seed)
        one, none = hold(read_twice(c, make_world(c, calm), calm))
        same, other = same + one, other + none
    print(f"{style}: 4,000 worlds, {same} lives read twice, {other} that decide in several partitions")


# --- By hand ----------------------------------------------------------------------------------------------------------


def keys(*messages: Message, colocated: bool = False) -> list[tuple[str, int, Outcome]]:
    """Topic and offset of the keys of what these messages settle."""
    core = Core(make_rules(Style(colocated)))
    for message in messages:
        core.apply(message, 0.0)
        core.settle(0.0)
    return [(s.key.topic, s.key.offset, s.finished.outcome) for s in core.settled]


def test_a_late_event_in_another_partition_has_no_say_though_it_is_stamped_first() -> None:
    whole = (sight(A, 2, ev(0, OPEN, 100), ev(1, CLOSE, 101)), cover(A, 0, 2, [0, 1], 102))
    straggler = (sight(B, 1, ev(0, STEP_OPEN, 50)), cover(B, 0, 1, [0], 102))
    seen = (discover(200, A, B, found=()), sight(A, 2, as_of=200), sight(B, 1, as_of=200))
    closed = [("a", 0, Outcome.CLOSED)]
    assert keys(discover(99, A, B), *whole, *seen, *straggler) == closed
    assert keys(discover(99, A, B), *straggler, *whole, *seen) == closed


def test_a_retry_has_one_key_whether_its_aborted_attempt_was_settled_before_or_belongs_to_it() -> None:
    attempt = sight(A, 2, ev(0, OPEN, 100), ev(1, CLOSE, 101), as_of=105)
    retry = sight(A, 4, ev(2, OPEN, 190), ev(3, CLOSE, 191), as_of=195)
    settled_before = (
        attempt,
        cover(A, 0, 2, [], 102, as_of=105),
        discover(180, A, found=()),
        sight(A, 2, as_of=180),
        retry,
        cover(A, 2, 4, [2, 3], 192),
    )
    in_one = (attempt, retry, cover(A, 0, 4, [2, 3], 192))
    end = (discover(300, A, found=()), sight(A, 4, as_of=300))
    assert keys(discover(99, A), *settled_before, *end) == [("a", 0, Outcome.ABORTED), ("a", 2, Outcome.CLOSED)]
    assert keys(discover(99, A), *in_one, *end) == [("a", 2, Outcome.CLOSED)]


def test_of_attempts_that_all_were_aborted_the_first_gives_the_key_and_that_of_the_others_comes_no_more() -> None:
    first = (sight(A, 1, ev(0, OPEN, 100), as_of=101), cover(A, 0, 1, [], 102, as_of=101))
    retry = (sight(A, 2, ev(1, OPEN, 300)), cover(A, 1, 2, [], 301))
    settle = (discover(200, A, found=()), sight(A, 1, as_of=200))
    end = (discover(900, A, found=()), sight(A, 2, as_of=900))
    aborted = [("a", 0, Outcome.ABORTED), ("a", 1, Outcome.ABORTED)]
    assert keys(discover(99, A), *first, *settle, *retry, *end) == aborted
    assert keys(discover(99, A), *first, *retry, *end) == aborted[:1]


def test_what_is_dropped_past_a_limit_has_no_say() -> None:
    steps = [ev(i, kind, 100 + i, step="x") for i, kind in enumerate((STEP_OPEN, STEP_DONE, STEP_OPEN, STEP_DONE))]
    for most in (2, 100):
        core = Core(make_rules(Style())._replace(most_events_each=most))
        core.apply(discover(99, A), 0.0)
        core.apply(sight(A, 6, *steps, ev(4, OPEN, 104), ev(5, CLOSE, 105)), 0.0)
        core.apply(cover(A, 0, 6, list(range(6)), 106), 0.0)
        core.apply(discover(200, A, found=()), 0.0)
        core.apply(sight(A, 6, as_of=200), 0.0)
        core.settle(0.0)
        assert [s.key.offset for s in core.settled] == [4]


def test_the_topics_id_tells_a_recreated_topic_and_without_one_the_number_does() -> None:
    def topic_id_in_key(**more: object) -> str:
        core = Core(make_rules(Style()))
        core.apply(discover(99, A, **more), 0.0)
        core.apply(sight(A, 1, ev(0, OPEN, 100)), 0.0)
        core.forget("t", 0.0)
        return core.settled[0].key.topic_id

    assert topic_id_in_key() == "a-0"
    assert topic_id_in_key(topic_ids={}) == "#0"


def test_discovery_that_learns_an_id_later_changes_the_key_to_it() -> None:
    core = Core(make_rules(Style()))
    core.apply(discover(99, A, topic_ids={}), 0.0)
    core.apply(sight(A, 1, ev(0, OPEN, 100)), 0.0)
    assert core.ledger.key_of(core.live["t"]).topic_id == "#0"
    core.apply(Discovery(100.0, [], {"a": [0]}, [], {"a": "id"}), 0.0)
    assert core.ledger.key_of(core.live["t"]) == LifeKey("t", "a", "id", 0, 0)
