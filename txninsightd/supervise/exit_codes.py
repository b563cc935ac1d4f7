"""The daemon's exit codes that processes agree on; `txninsightd --help` lists all of them.

9 is `host_limits.EXIT_HOST_LIMIT`.
"""

EXIT_GAVE_UP = 3
EXIT_UNUSABLE = 4
EXIT_KILLED = 5
EXIT_CANNOT_LISTEN = 6
EXIT_STATE = 7
EXIT_NOT_SAVED = 8
