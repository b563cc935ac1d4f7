"""A place for checkpoints whose writes wait until the test lets them through."""

import os
from collections.abc import Iterable
from pathlib import Path

from txninsightd.aggregate.store import CheckpointStore
from txninsightd.core.snapshot import VERSION


class GatedStore(CheckpointStore):
    """Each write waits for a byte in a named pipe: `open_gate` lets all through."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, VERSION)
        self._path_of_gate = directory / "gate"
        os.mkfifo(self._path_of_gate)
        self._gate = os.open(self._path_of_gate, os.O_RDWR)

    def open_gate(self) -> None:
        """Let every write through, those that wait and later ones."""
        os.write(self._gate, b"." * 1000)

    def write(self, chunks: Iterable[bytes]) -> int:
        """As the store does, when it may."""
        with self._path_of_gate.open("rb", buffering=0) as gate:
            gate.read(1)
        return super().write(chunks)
