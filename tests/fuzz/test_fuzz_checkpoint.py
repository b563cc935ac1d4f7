"""Checkpoints that are whole, with a right checksum, and wrong: passed over, or a state that one can go on from.

The sound ones are dumps of ledgers of the core's random worlds, stopped in the middle of a stream. Changed values reach
`restore` itself. If it takes one, the rest of the stream must run on it as on any other: messages, ticks, settlement,
new rules, `forget`, the metrics, the next checkpoint and the start from that one.
"""

import json
import random
import resource
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import strategies as st

from tests.harness.core.core import Core
from tests.harness.core.side_by_side import new_core
from tests.harness.core.styles import STYLES
from tests.harness.core.worlds import ORDERS, Chooser, Message, Seeded, World, arrive, make_world, nows, read_world
from tests.harness.mutation import VALUES, Edit, by_shape, edited, mutated, some_edits
from tests.harness.properties import choosers, fuzz
from txninsightd.aggregate.recovery import recover
from txninsightd.aggregate.state_directory import StateUnusable
from txninsightd.aggregate.store import CheckpointStore
from txninsightd.core.snapshot import VERSION, OtherColocation, Unusable
from txninsightd.vocabulary import Discovery, PartitionRef

FOUND = Path(__file__).parent / "found"
LATER_S = 1e7
encode = msgspec.msgpack.Encoder().encode
styles = st.sampled_from(["large", "large-colocated"])


class Stopped(NamedTuple):
    """A world in the middle: its checkpoint as plain objects, a tree a chunk, and the messages that come after it."""

    world: World
    chunks: list[Any]
    rest: list[tuple[float, Message]]
    now: float


@cache
def stopped(style: str) -> Stopped:
    """A world of this style whose ledger has something of everything."""
    for seed in range(1000):
        c = Seeded(seed)
        world = make_world(c, STYLES[style])
        messages = list(nows(arrive(c, read_world(c, world, STYLES[style]), ORDERS[0])))
        core = new_core(world)
        for i, (now, message) in enumerate(messages):
            step(core, now, message)
            if i < len(messages) * 0.8 and has_all(core):
                return Stopped(world, [tree_of(chunk) for chunk in core.chunks()], messages[i + 1 :], now)
    raise AssertionError("no such world")


def tree_of(chunk: bytes) -> Any:
    """A chunk as plain objects; the part of a section is a tree, too."""
    tree = msgspec.msgpack.decode(chunk)
    if isinstance(tree, list):
        tree[1] = msgspec.msgpack.decode(tree[1])
    return tree


def bytes_of(tree: Any) -> bytes:
    """The chunk again."""
    if isinstance(tree, list) and len(tree) > 1:
        tree = [tree[0], encode(tree[1]), *tree[2:]]
    return encode(tree)


def has_all(core: Core) -> bool:
    live = core.live.values()
    return bool(
        core.stuck
        and core.archive.lingering
        and core.figures.durations
        and any(txn.pending_closes for txn in live)
        and any(txn.notes for txn in live)
        and any(txn.simple for txn in live)
        and any(partition.waiting_runs for partition in core.partitions.values())
    )


def step(core: Core, now: float, message: Message) -> None:
    core.apply(message)
    core.tick(now)
    core.settle(now)


def survives(stopped: Stopped, chunks: list[bytes]) -> bool:
    """Whether these chunks are taken; if so, all that may follow is played."""
    core = new_core(stopped.world)
    try:
        core.restore(chunks)
    except (Unusable, OtherColocation):
        return False
    goes_on(stopped, core)
    return True


def goes_on(stopped: Stopped, core: Core) -> None:
    core.ledger.start_reading(stopped.now)
    for now, message in readable(core, stopped.rest):
        step(core, now, message)
    again = new_core(stopped.world)
    again.restore(core.chunks())
    for _ in core.adopt(stopped.world.rules, now):
        pass
    for txn_id in list(core.live)[:1]:
        core.forget(txn_id, now)
    core.tick(now + LATER_S)
    core.settle(now + LATER_S)
    for finished in core.archive.lingering.values():
        assert finished.life
    core.chunks()


def readable(core: Core, messages: list[tuple[float, Message]]) -> Iterator[tuple[float, Message]]:
    """Readers only read what the ledger has told them to, under the number that it gives to the topic."""
    for now, message in messages:
        if isinstance(message, Discovery):
            yield now, message
            continue
        known = core.ledger.topics.incarnations.get(message.topic)
        ref = PartitionRef(message.topic, message.partition, known.number if known is not None else 0)
        if ref in core.partitions:
            yield now, msgspec.structs.replace(message, incarnation=ref.incarnation)


# --- Changed trees ----------------------------------------------------------------------------------------------------


@fuzz(400, 8000, style=styles, c=choosers())
def test_changed_values(style: str, c: Chooser) -> None:
    world = stopped(style)
    tree = edited(world.chunks, some_edits(c, world.chunks))
    survives(world, [bytes_of(chunk) for chunk in tree])


@pytest.mark.full
@pytest.mark.parametrize("style", ["large", "large-colocated"])
def test_every_value_in_every_field(style: str) -> None:
    world = stopped(style)
    taken = 0
    for shape in by_shape(world.chunks):
        for what in VALUES:
            for where in {shape[0], shape[-1]}:
                taken += survives(
                    world, [bytes_of(chunk) for chunk in edited(world.chunks, [Edit(where, "set", what)])]
                )
    print(f"{style}: {taken} changes were taken")
    assert taken > 100


@pytest.mark.full
@pytest.mark.parametrize("style", ["large", "large-colocated"])
def test_seeded_changes_at_random(style: str) -> None:
    """The same edits as above, without hypothesis' share of the time: ten times as many."""
    world = stopped(style)
    first = random.randrange(1 << 40)
    taken = 0
    for seed in range(first, first + 30_000):
        edits = some_edits(Seeded(seed), world.chunks)
        try:
            taken += survives(world, [bytes_of(chunk) for chunk in edited(world.chunks, edits)])
        except Exception as failure:
            raise AssertionError(
                f"a line for found/checkpoints.jsonl: {json.dumps([style, edits], default=repr)}"
            ) from (failure)
    print(f"{style}: {taken} of 30000 changed checkpoints were taken")
    assert taken > 1000


def seeds() -> list[Any]:
    lines = (FOUND / "checkpoints.jsonl").read_text().splitlines()
    return [pytest.param(seed["style"], seed["edits"], id=seed["was"]) for seed in map(json.loads, lines)]


@pytest.mark.parametrize(("style", "edits"), seeds())
def test_what_was_found_once(style: str, edits: list[Any]) -> None:
    world = stopped(style)
    tree = edited(world.chunks, [Edit(tuple(where), how, what) for where, how, what in edits])
    assert tree != world.chunks
    assert not survives(world, [bytes_of(chunk) for chunk in tree])


def test_what_was_not_changed_is_taken() -> None:
    for style in ("large", "large-colocated"):
        world = stopped(style)
        assert survives(world, [bytes_of(chunk) for chunk in world.chunks])


# --- Changed bytes ----------------------------------------------------------------------------------------------------

WORDS = [b"\xc0", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xca\x7f\xc0\x00\x00"]


@fuzz(300, 5000, style=styles, which=st.integers(0, 3), c=choosers())
def test_changed_bytes_of_a_chunk(style: str, which: int, c: Chooser) -> None:
    world = stopped(style)
    chunks = [bytes_of(chunk) for chunk in world.chunks]
    chunks[which] = mutated(c, chunks[which], chunks, WORDS)
    survives(world, chunks)


@fuzz(100, 5000, chunks=st.lists(st.binary(max_size=64), max_size=3))
def test_any_chunks(chunks: list[bytes]) -> None:
    assert not survives(stopped("large"), chunks)


@pytest.mark.parametrize(
    "begin",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x91" * 10**6,
    ],
    ids=["array", "map", "bytes", "text", "depth"],
)
def test_entries_that_are_not_there_cost_no_memory(begin: bytes) -> None:
    world = stopped("large")
    chunks = [bytes_of(chunk) for chunk in world.chunks]
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    markers = (b"partitions", b"txn_ids", b"txn_ids", b"counters")
    for which, (head, marker) in enumerate(zip(chunks, markers, strict=True)):
        for cut in (0, 1, head.index(marker) + 10):
            assert not survives(world, [*chunks[:which], head[:cut] + begin, *chunks[which + 1 :]])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100 * 1024


# --- Whole files ------------------------------------------------------------------------------------------------------


@fuzz(60, 3000, c=choosers(), changed=st.sampled_from(["file", "chunk"]))
def test_the_one_before_is_taken_instead(c: Chooser, changed: str) -> None:
    """A file that is damaged, and one that is whole and nonsense, lead to the one before it, in words."""
    world = stopped("large")
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as name:
        directory = Path(name)
        patch.setattr("txninsightd.aggregate.store.os.fsync", lambda _: None)
        chunks = [bytes_of(chunk) for chunk in world.chunks]
        store = CheckpointStore(directory, VERSION, now=lambda: world.now)
        store.write(chunks)
        changed_chunk = mutated(c, chunks[0], chunks, WORDS)
        if changed == "chunk":
            store.write([changed_chunk, *chunks[1:]])
        else:
            store.write(chunks)
            newest = max(directory.glob("checkpoint-*"))
            newest.write_bytes(mutated(c, newest.read_bytes(), chunks, WORDS))
        opened = CheckpointStore(directory, VERSION, now=lambda: world.now)
        try:
            core = new_core(world.world)
            recovered = recover(
                opened, lambda: Core(core.rules, core.ledger.start_at).pipeline, world.now, lambda: None
            )
        except StateUnusable:
            assert msgspec.msgpack.decode(changed_chunk)["colocated"]  # it says so: that is for the operator to decide
            return
    assert recovered.written_at == world.now
    assert recovered.passed_over == len(opened.damaged)
    goes_on(world, Core.of(recovered.pipeline))
