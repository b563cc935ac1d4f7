"""A thread that works within `with`, and is waited for at its end."""

import threading
from abc import ABC, abstractmethod
from typing import Self


class Beside(ABC):
    """`run` is to return soon once `stopping` is set."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self.run, name=type(self).__name__, daemon=True)

    @abstractmethod
    def run(self) -> None:
        """What is done on the thread."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stopping.set()
        self._thread.join()
