"""No process outlives the one that forked it, however that one ends.

Linux sends the signal that prctl(PR_SET_PDEATHSIG) names as soon as the forking thread is gone; only the main thread
forks here, so that is the forking process. The signal is forgotten at a fork: whoever forks again, asks again.
"""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def kill_on_parent_exit(parent_pid: int) -> None:
    """Called first thing after a fork, with the forker's process id: be killed when it ends, at once if it has ended.

    Raises OSError where the kernel refuses.
    """
    if _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)
