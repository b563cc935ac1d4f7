"""How the aggregator comes by its state: from the newest checkpoint that can be read, or from nothing.

A checkpoint that is damaged, too new, or cannot be understood is passed over for the one before it, in words. Each is
tried on a pipeline of its own, because a failed attempt leaves one half filled.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import structlog

from txninsightd import clock
from txninsightd.aggregate.state_directory import StateUnusable
from txninsightd.aggregate.store import CheckpointStore
from txninsightd.core.our_clock import NOT_KNOWN, OurClock
from txninsightd.core.pipeline import Pipeline
from txninsightd.core.snapshot import OtherColocation, Unusable, restore

CORRECTED = "moments are corrected; nothing new is called stuck until both views have seen what came since"

log = structlog.get_logger()


class Recovered(NamedTuple):
    """A pipeline to go on with. `written_at`: the moment of its checkpoint, 0 without one; `passed_over`: how many."""

    pipeline: Pipeline
    written_at: float
    passed_over: int


def recover(
    store: CheckpointStore,
    new_pipeline: Callable[[], Pipeline],
    now: float,
    beat: Callable[[], None],
    our_clock: OurClock = NOT_KNOWN,
) -> Recovered:
    """The state to begin with. Raises StateUnusable where there is one that this config does not fit.

    `now` is told by `our_clock`, which may have been stepped since the checkpoint.
    """
    recovered = _newest(store, new_pipeline, now, beat) or Recovered(new_pipeline(), 0.0, len(store.damaged))
    for text in store.damaged:
        log.error(
            "checkpoint_passed_over",
            checkpoint=text,
            advice="the one before it is taken, or none if this was the oldest; what came since is read again",
        )
    ledger = recovered.pipeline.ledger
    step_s = our_clock.stepped_s(since=ledger.our_clock)
    ledger.our_clock = our_clock
    if step_s is not None and abs(step_s) >= clock.STEP_S:
        log.warning("clock_stepped", seconds=round(step_s, 3), when="since the checkpoint", effect=CORRECTED)
        ledger.clock_stepped(step_s, now)
    # Also if it begins empty: nothing is called stuck before both views have passed this moment.
    ledger.start_reading(now)
    return recovered


def _newest(
    store: CheckpointStore, new_pipeline: Callable[[], Pipeline], now: float, beat: Callable[[], None]
) -> Recovered | None:
    """From the newest checkpoint that can be read, if there is one."""
    for loaded in store.read(beat):
        pipeline = new_pipeline()
        try:
            unclaimed = restore(_beating(loaded.chunks, beat), pipeline)
        except (Unusable, OSError) as failure:
            store.pass_over(loaded.path, f"cannot be understood: {failure}")
            continue
        # Nothing is wrong with it, so it is not passed over: to begin anew is the operator's decision.
        except OtherColocation as other:
            raise StateUnusable(
                f"the checkpoints in {loaded.path.parent} were written with events.colocated: "
                f"{str(other.was).lower()}; set it back, or remove them to begin anew"
            ) from other
        if unclaimed:
            log.warning("checkpoint_sections_ignored", sections=unclaimed, effect="their state is dropped")
        live = len(pipeline.ledger.live)
        log.info("resumed", checkpoint=loaded.path.name, age_s=round(now - loaded.written_at, 1), live=live)
        return Recovered(pipeline, loaded.written_at, len(store.damaged))
    return None


def _beating(chunks: Iterable[bytes], beat: Callable[[], None]) -> Iterator[bytes]:
    for chunk in chunks:
        beat()
        yield chunk
