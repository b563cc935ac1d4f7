"""Snapshots: the ledger and its stateful sinks as bytes, and back. This is what a checkpoint holds.

A pipeline that is dumped between two messages and restored behaves, message for message, as the one that was not. What
can be worked out again is left out; everything else is saved as it stands, and nothing is judged twice.

A snapshot is a sequence of chunks, each MessagePack: the head (head.py), then chunks of some thousand transactions
(transactions.py), then the sections of the stateful sinks by name. A new sink changes nothing here, and finds no
section in older snapshots.

`VERSION` changes when an older program could no longer read it. Version 1, without sections, is read as well.
"""

import gc
from collections.abc import Iterable, Iterator

import msgspec

from txninsightd.core.pipeline import Pipeline
from txninsightd.core.snapshot.checks import check
from txninsightd.core.snapshot.head import Head, restore_head, saved_head
from txninsightd.core.snapshot.transactions import dump_transactions, restore_transactions

VERSION = 2

FIGURES = "figures"
"""The one section that version 1 has, in its head."""

__all__ = ["VERSION", "OtherColocation", "Unusable", "dump", "restore"]


class Unusable(Exception):
    """The bytes are no state that this program can read."""


class OtherColocation(Exception):
    """The state came about with the other setting of `events.colocated`, under which other things hold."""

    def __init__(self, was: bool) -> None:
        super().__init__(was)
        self.was = was


class Section(msgspec.Struct, array_like=True):
    """A part of a sink's state; the parts of one sink follow each other."""

    name: str
    part: bytes


def dump(pipeline: Pipeline) -> Iterator[bytes]:
    """The state in chunks. Only between two messages; nothing may change until the last chunk."""
    sinks = pipeline.stateful_sinks
    yield msgspec.msgpack.encode(saved_head(pipeline.ledger, [sink.name for sink in sinks]))
    yield from dump_transactions(pipeline.ledger)
    for sink in sinks:
        for part in sink.save():
            yield msgspec.msgpack.encode(Section(sink.name, part))


def restore(chunks: Iterable[bytes], pipeline: Pipeline) -> list[str]:
    """Bring an empty pipeline to the state that was dumped; returns the names of sections that no sink takes.

    A sink without a section begins empty. The ledger judges by the rules of the snapshot until it adopts its own; all
    other rules, and the figures' buckets, stay what they are. Raises Unusable when the bytes cannot be read (the
    pipeline is then spoilt), OtherColocation, and what reading the chunks raises (OSError).
    """
    collecting = gc.isenabled()
    # Millions of objects come, and all of them stay: the collector would walk through them over and over.
    gc.disable()
    try:
        return _restore(iter(chunks), pipeline)
    # These say nothing against the bytes.
    except (OSError, MemoryError, OtherColocation):
        raise
    except Exception as failure:  # whatever else goes wrong comes from the bytes
        raise Unusable(f"{type(failure).__name__}: {failure}") from failure
    finally:
        if collecting:
            gc.enable()


def _restore(chunks: Iterator[bytes], pipeline: Pipeline) -> list[str]:
    ledger = pipeline.ledger
    head = msgspec.msgpack.decode(next(chunks), type=Head)
    if head.colocated != ledger.rules.colocated:
        raise OtherColocation(head.colocated)
    restore_head(head, ledger)
    restore_transactions(chunks, head.live, head.lingering, ledger)
    ledger.finish_restore()
    check(ledger)
    sections = _sections(head, chunks)
    for sink in pipeline.stateful_sinks:
        parts = sections.pop(sink.name, None)
        if parts is not None:
            sink.restore(parts)
    pipeline.rebuild()
    return sorted(sections)


def _sections(head: Head, chunks: Iterator[bytes]) -> dict[str, list[bytes]]:
    """The saved states of sinks by name."""
    if head.figures is not msgspec.UNSET:
        if head.sections:
            raise ValueError("figures in the head, as in version 1, and sections as well")
        return {FIGURES: [bytes(head.figures)]}
    sections: dict[str, list[bytes]] = {name: [] for name in head.sections}
    for section in map(msgspec.msgpack.Decoder(Section).decode, chunks):
        sections[section.name].append(section.part)
    return sections
