"""What `expose/` is shown of the daemon: the ledger and a few facts about the processes, to be read, and changed by
an operator's order only.

The composition root hands in something of this shape. All of it is read on the aggregator's event loop, so what is
read between two `await`s belongs to one moment.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from txninsightd.core.figures import Figures
from txninsightd.core.ledger import Ledger
from txninsightd.vocabulary import CheckpointHealth, ChildStatus, Reloads


class Source(Protocol):
    """The daemon as its figures and its API see it. Moments are seconds since the epoch."""

    @property
    def ledger(self) -> Ledger:
        """All business transactions."""

    @property
    def figures(self) -> Figures:
        """The figures about them."""

    @property
    def started_at(self) -> float:
        """When the aggregator began."""

    @property
    def multiproc_dir(self) -> Path | None:
        """Where the readers write the figures about themselves (worker_health.py); None: they write none."""

    @property
    def checkpoints(self) -> CheckpointHealth:
        """How the checkpoints fare."""

    @property
    def reloads(self) -> Reloads:
        """What became of the reloads of the config, as the parent knows it."""

    def forget(self, txn_id: str) -> bool:
        """End a live transaction; says whether there was one."""

    async def durable(self) -> None:
        """Wait until a checkpoint holds what is known now. Raises OSError when it cannot be written."""

    def now(self) -> float:
        """The daemon's clock."""

    def warming_up(self) -> bool:
        """Whether a view has not caught up on some present partition since the aggregator began."""

    def missing(self) -> list[str]:
        """What keeps the daemon from being ready, in words; empty when it is ready."""

    def children(self) -> list[ChildStatus]:
        """The child processes as the parent knows them."""

    def heartbeat_ages_s(self) -> Mapping[str, float]:
        """Seconds since each started child last gave a heartbeat; of one that has given none yet: since its start."""
