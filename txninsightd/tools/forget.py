"""`txninsightd forget`: tells the running daemon, through its socket, that a transaction is dead.

The socket lies in the state directory and speaks HTTP. What comes back is one line for the operator and an exit
code: 0 when it is done for good, else 1.
"""

import http.client
import json
import socket
from pathlib import Path
from typing import NamedTuple

from txninsightd.config import Secret
from txninsightd.config.model import CONTROL_SOCKET

ANSWER_WITHIN_S = 300.0
"""A checkpoint must be written first."""


class Answer(NamedTuple):
    """What to print, and the exit code."""

    text: str
    exit_code: int


def forget(txn_id: str, directory: str, answer_within_s: float = ANSWER_WITHIN_S) -> Answer:
    """End this transaction in the daemon that keeps its state in this directory."""
    connection = _Connection(Path(directory, CONTROL_SOCKET), answer_within_s)
    # What was put into the config from outside of it is not printed.
    shown = f"{CONTROL_SOCKET} in state.directory" if isinstance(directory, Secret) else str(connection.path)
    try:
        connection.request("POST", "/forget", json.dumps({"txn_id": txn_id}))
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (FileNotFoundError, ConnectionRefusedError):
        return Answer(f"no txninsightd listens at {shown}: is it running, and with this --config?", 1)
    except PermissionError:
        return Answer(f"no access to {shown}: only the user that txninsightd runs as, and root, may use it", 1)
    # It may be done, or not: to ask again does no harm.
    except (OSError, http.client.HTTPException, ValueError) as failure:
        reason = f"no answer within {answer_within_s:g} s" if isinstance(failure, TimeoutError) else str(failure)
        return Answer(f"txninsightd at {shown} did not say that it is done ({reason}): ask again", 1)
    finally:
        connection.close()
    if response.status == http.HTTPStatus.OK:
        return Answer(f"forgotten: {txn_id}", 0)
    return Answer(str(answer["error"]), 1)


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.path = path

    def connect(self) -> None:
        """Reach the daemon."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))
