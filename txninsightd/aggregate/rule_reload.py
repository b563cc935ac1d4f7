"""Lets a running ledger adopt other rules without holding up the event loop.

The ledger's steps are taken in slices of `SLICE_S`, one each time the loop comes round, so that whatever arrives is
taken in between. Rules that come while others are being adopted take their place.

While a view has not caught up since the start, the ledger sees the past, and other thresholds would find things stuck
in it that are long over. Until then it is judged as before; all other rules hold at once.
"""

import gc
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Protocol

import structlog

from txninsightd.aggregate import checkpoint
from txninsightd.core.pipeline import Pipeline
from txninsightd.core.rules import Rules

SLICE_S = 0.01

log = structlog.get_logger()


class Loop(checkpoint.Loop, Protocol):
    """The part of an asyncio event loop that is needed here, and beside."""

    def call_soon(self, callback: Callable[..., object], *args: object) -> object:
        """Call back when the loop comes round."""


class RuleReload:
    """`after_slice` is called after each slice, for what has come of it."""

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
        """Adopt these rules as soon as may be."""
        # The latest word counts: what waits is of an older config.
        self._waiting = None
        if self._warming_up() and rules.judging != self._ledger.rules.judging:
            self._waiting = rules
            rules = rules._replace(**self._ledger.rules.judging._asdict())
            log.info("thresholds_wait", until="both views have caught up")
        self._begin(rules)

    def tick(self) -> None:
        """To be called now and then: what waited may be due."""
        if self._waiting is not None and not self._warming_up():
            rules, self._waiting = self._waiting, None
            self._begin(rules)

    def _begin(self, rules: Rules) -> None:
        gc.freeze()  # a collection in the midst of it would walk through all that lives
        # Whatever is evaluated goes by them from here on; only what waits is judged anew, in the steps.
        self._steps = self._pipeline.adopt(rules, self._now())
        if self._ledger.judged_by is None:
            log.info("judging_anew", live=len(self._ledger.live))
        self._loop.call_soon(self._slice, self._steps)

    def _slice(self, steps: Iterator[None]) -> None:
        # Other rules came meanwhile: this callback is of the former ones, whose steps nobody takes any more.
        if steps is not self._steps:
            return
        until = perf_counter() + SLICE_S
        # The steps give None; `self`, which they never give, says that there are no more.
        while (left := next(steps, self) is not self) and perf_counter() < until:
            pass
        self._after_slice()
        if left:
            self._loop.call_soon(self._slice, steps)
        else:
            log.info("rules_adopted", live=len(self._ledger.live), stuck=len(self._ledger.stuck))
