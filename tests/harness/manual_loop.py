"""An event loop's part for an aggregator that a test steps by hand: callbacks run when the test says so."""

from collections.abc import Callable


class ManualLoop:
    """Keeps the callbacks of readable descriptors."""

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._soon: list[Callable[[], object]] = []
        self._running = False

    def add_reader(self, fd: int, callback: Callable[..., object], *args: object) -> None:
        self._callbacks[fd] = lambda: callback(*args)

    def remove_reader(self, fd: int) -> bool:
        return self._callbacks.pop(fd, None) is not None

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        """At once, but for what a callback wants called: that comes when it has returned."""
        self._soon.append(lambda: callback(*args))
        if self._running:
            return
        self._running = True
        try:
            while self._soon:
                self._soon.pop(0)()
        finally:
            self._running = False

    def run_once(self) -> None:
        """Call back for every descriptor, whether or not something has arrived there."""
        for callback in list(self._callbacks.values()):
            callback()
