"""What the operator decides of the ledger: one immutable value, made from the config (aggregate/assembly.py)."""

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from txninsightd.vocabulary import Objective, Thresholds

NO_LIMIT = sys.maxsize


class Objectives(NamedTuple):
    """What is wanted of transactions that go well: of most types, and of those that have an objective of their own."""

    usual: Objective = Objective()
    by_type: Mapping[str, Objective] = MappingProxyType({})

    def of(self, txn_type: str | None) -> Objective:
        """The objective of a type."""
        return self.usual if txn_type is None else self.by_type.get(txn_type, self.usual)

    def are_missed(self, txn_type: str | None, duration_s: float | None) -> bool:
        """Whether a closed transaction of this type took longer than wanted."""
        wanted_s = self.of(txn_type).duration_s
        return wanted_s is not None and duration_s is not None and duration_s > wanted_s


class JudgingRules(NamedTuple):
    """The part of the rules by which live transactions are judged. All but the last two are seconds."""

    # A checkpoint holds them by position.
    settle_lateness_s: float
    settle_max_s: float
    retry_grace_s: float
    stuck: Thresholds
    stuck_by_type: Mapping[str, Thresholds]


class Rules(NamedTuple):
    """All rules. `*_s` in seconds.

    `most_events`: of all live and lingering transactions together; `most_events_each`: of one live transaction.
    """

    colocated: bool
    settle_lateness_s: float
    settle_max_s: float
    retry_grace_s: float
    linger_s: float
    remember_s: float
    most_lingering: int
    most_remembered: int
    stuck: Thresholds
    stuck_by_type: Mapping[str, Thresholds]
    most_open: int = NO_LIMIT
    most_events_each: int = NO_LIMIT
    most_events: int = NO_LIMIT
    most_undecided: int = NO_LIMIT
    objectives: Objectives = Objectives()

    def thresholds(self, txn_type: str | None) -> Thresholds:
        """The thresholds of a type."""
        return self.stuck_by_type.get(txn_type, self.stuck) if txn_type is not None else self.stuck

    @property
    def judging(self) -> JudgingRules:
        """The part by which live transactions are judged."""
        return JudgingRules(*(getattr(self, name) for name in JudgingRules._fields))
