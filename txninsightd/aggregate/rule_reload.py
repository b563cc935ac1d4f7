"""Applies new rules to a running ledger without blocking the event loop.

The ledger's steps run in slices of `SLICE_S`, one per turn of the loop, and messages are processed in between. Rules
that arrive during an adoption replace it.

Until every view has caught up since the start, the ledger sees the past, and new thresholds would call past states
stuck. So the old thresholds stay until then; all other rules apply at once.
"""

import gc
from collections.abc import Callable, Iterator
from time import perf_counter

import structlog

from txninsightd.aggregate.lines import Loop
from txninsightd.core.pipeline import Pipeline
from txninsightd.core.rules import Rules

SLICE_S = 0.01

log = structlog.get_logger()


class RuleReload:
    """`after_slice` is called after each slice, to handle its results."""

    def __init__(
        self,
        pipeline: Pipeline,
        loop: Loop,
        now: Callable[[], float],
        warming_up: Callable[[], bool],
        after_slice: Callable[[], None],
    ) -> None:
        self._pipeline = pipeline
        self._ledger = pipeline.ledger
        self._loop = loop
        self._now = now
        self._warming_up = warming_up
        self._after_slice = after_slice
        self._waiting: Rules | None = None
        self._steps: Iterator[None] = iter(())

    def want(self, rules: Rules) -> None:
        """Adopt these rules as soon as possible."""
        # The latest rules win: waiting ones come from an older config.
        self._waiting = None
        if self._warming_up() and rules.judging != self._ledger.rules.judging:
            self._waiting = rules
            rules = rules._replace(**self._ledger.rules.judging._asdict())
            log.info("thresholds_wait", until="both views have caught up")
        self._begin(rules)

    def tick(self) -> None:
        """Call this regularly: it starts waiting rules once the views have caught up."""
        if self._waiting is not None and not self._warming_up():
            rules, self._waiting = self._waiting, None
            self._begin(rules)

    def _begin(self, rules: Rules) -> None:
        gc.freeze()  # a collection meanwhile would scan all live objects
        # New evaluations use the new rules from now on; the steps re-evaluate the waiting transactions.
        self._steps = self._pipeline.adopt(rules, self._now())
        if self._ledger.judged_by is None:
            log.info("judging_anew", live=len(self._ledger.live))
        self._loop.call_soon(self._slice, self._steps)

    def _slice(self, steps: Iterator[None]) -> None:
        # Newer rules have replaced the ones of this callback.
        if steps is not self._steps:
            return
        until = perf_counter() + SLICE_S
        # The steps yield None; the default `self` marks their end.
        while (left := next(steps, self) is not self) and perf_counter() < until:
            pass
        self._after_slice()
        if left:
            self._loop.call_soon(self._slice, steps)
        else:
            log.info("rules_adopted", live=len(self._ledger.live), stuck=len(self._ledger.stuck))
