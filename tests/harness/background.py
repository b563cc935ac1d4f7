"""Threads that work within `with`, and are joined at its end."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self


class Background(ABC):
    """`run` must return soon once `stopping` is set."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self.run, name=type(self).__name__, daemon=True)

    @abstractmethod
    def run(self) -> None:
        """The thread's work."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stopping.set()
        self._thread.join()


@contextmanager
def repeated(action: Callable[[], object], pause_s: float) -> Iterator[None]:
    """The action runs again and again, with a pause before each time. Raises what it raised."""
    stopping = threading.Event()

    def work() -> None:
        while not stopping.wait(pause_s):
            action()

    with ThreadPoolExecutor(1) as beside:
        working = beside.submit(work)
        try:
            yield
        finally:
            stopping.set()
            working.result()
