"""The parent's signals. Handlers only take note; a pipe wakes the parent's loop, which does the rest."""

import os
import signal


class Signals:
    """SIGTERM and SIGINT ask for the stop, SIGHUP for a reload of the configuration."""

    def __init__(self) -> None:
        self.stop_signal: int | None = None
        self._hangup = False
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)

    def install(self) -> None:
        """Handle the signals from now on."""
        # A handler alone does not end `wait`, which goes on after it (PEP 475); the byte in this pipe does. A full pipe
        # wakes just as well.
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, self._note_hangup)
        signal.signal(signal.SIGTERM, self._note_stop)
        signal.signal(signal.SIGINT, self._note_stop)

    def uninstall(self) -> None:
        """Ignore all signals from now on: the process is ending, and one more must not change its exit code."""
        # Not the handlers: when Python shuts down, it puts the default, death, in their place.
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)

    def fileno(self) -> int:
        """The descriptor that becomes readable with a signal."""
        return self._woken

    def clear_wakeup(self) -> None:
        """Empty the pipe; what the signals asked for stays noted."""
        os.read(self._woken, 4096)

    def take_hangup(self) -> bool:
        """Whether a SIGHUP has come since the last call. One that comes after this call is for the next."""
        if not self._hangup:
            return False
        self._hangup = False
        return True

    def _note_hangup(self, _number: int, _frame: object) -> None:
        self._hangup = True

    def _note_stop(self, number: int, _frame: object) -> None:
        if self.stop_signal is None:
            self.stop_signal = number
