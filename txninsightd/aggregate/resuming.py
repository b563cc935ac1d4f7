"""How the aggregator comes by its state: from the newest checkpoint that can be read, or from nothing.

A checkpoint that is damaged, too new, or cannot be understood is passed over for the one before it, in words; each is
tried on a ledger of its own, since a failed attempt leaves one half filled.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import structlog

from txninsightd.aggregate.store import CheckpointStore, StateUnusable
from txninsightd.core.ledger import Ledger
from txninsightd.core.snapshot import OtherColocation, Unusable, restore

log = structlog.get_logger()


class Resumed(NamedTuple):
    """A ledger to go on with. `written_at`: the moment of its checkpoint, 0 without one; `passed_over`: how many."""

    ledger: Ledger
    written_at: float
    passed_over: int


def resume(store: CheckpointStore, new_ledger: Callable[[], Ledger], now: float, beat: Callable[[], None]) -> Resumed:
    """The state to begin with. Raises StateUnusable where there is one that this config does not fit."""
    resumed = _newest(store, new_ledger, now, beat) or Resumed(new_ledger(), 0.0, len(store.damaged))
    for text in store.damaged:
        log.error(
            "checkpoint_passed_over",
            checkpoint=text,
            advice="the one before it is taken, or none if this was the oldest; what came since is read again",
        )
    # Also where it begins empty: nothing is called stuck before both views have passed this moment.
    resumed.ledger.resume(now)
    return resumed


def _newest(
    store: CheckpointStore, new_ledger: Callable[[], Ledger], now: float, beat: Callable[[], None]
) -> Resumed | None:
    """From the newest checkpoint that can be read, if there is one."""
    for loaded in store.read(beat):
        ledger = new_ledger()
        try:
            restore(_beating(loaded.chunks, beat), ledger)
        except (Unusable, OSError) as failure:
            store.pass_over(loaded.path, f"cannot be understood: {failure}")
            continue
        # Nothing is wrong with it, so it is not passed over: to begin anew is for the operator to decide.
        except OtherColocation as other:
            raise StateUnusable(
                f"the checkpoints in {loaded.path.parent} were written with events.colocated: "
                f"{str(other.was).lower()}; set it back, or remove them to begin anew"
            ) from other
        log.info("resumed", checkpoint=loaded.path.name, age_s=round(now - loaded.written_at, 1), live=len(ledger.live))
        return Resumed(ledger, loaded.written_at, len(store.damaged))
    return None


def _beating(chunks: Iterable[bytes], beat: Callable[[], None]) -> Iterator[bytes]:
    for chunk in chunks:
        beat()
        yield chunk
