"""No process outlives the one that forked it, however that one ends.

Linux sends the signal that prctl(PR_SET_PDEATHSIG) names when the forking thread ends. Only the main thread forks here,
so that is when the forking process ends. A fork resets the setting, so each forked process makes the call itself.
"""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def kill_on_parent_exit(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; at once if it has ended. Call it right after the fork.

    Raises OSError where the kernel refuses.
    """
    if _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)
