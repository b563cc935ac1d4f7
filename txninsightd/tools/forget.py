"""`txninsightd forget`: tells the running daemon, through its socket, that a transaction is dead.

The socket lies in the state directory and speaks HTTP. The result is one line for the operator and an exit code: 0 once
the change is durable, else 1.
"""

import http.client
import json
import socket
from pathlib import Path
from typing import NamedTuple

from txninsightd.config import Secret
from txninsightd.config.model import CONTROL_SOCKET
from txninsightd.visible_text import visible

ANSWER_WITHIN_S = 300.0
"""The answer comes after the next checkpoint."""


class Answer(NamedTuple):
    """The line to print, and the exit code."""

    text: str
    exit_code: int


def forget(txn_id: str, directory: str, answer_within_s: float = ANSWER_WITHIN_S) -> Answer:
    """End this transaction in the daemon that uses this state directory."""
    connection = _Connection(Path(directory, CONTROL_SOCKET), answer_within_s)
    # A value that the config took from a secret is not printed.
    shown = f"{CONTROL_SOCKET} in state.directory" if isinstance(directory, Secret) else str(connection.path)
    try:
        connection.request("POST", "/forget", json.dumps({"txn_id": txn_id}))
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (FileNotFoundError, ConnectionRefusedError):
        return Answer(f"no txninsightd listens at {shown}: check that it runs, and with this --config", 1)
    except PermissionError:
        return Answer(f"no access to {shown}: use the user that txninsightd runs as, or root", 1)
    # The command may have succeeded or not; repeating it is harmless.
    except (OSError, http.client.HTTPException, ValueError) as failure:
        reason = f"no answer within {answer_within_s:g} s" if isinstance(failure, TimeoutError) else str(failure)
        return Answer(f"txninsightd at {shown} did not confirm the command ({reason}): repeat it", 1)
    finally:
        connection.close()
    if response.status == http.HTTPStatus.OK:
        return Answer(f"forgotten: {visible(txn_id)}", 0)
    return Answer(visible(str(answer["error"])), 1)


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.path = path

    def connect(self) -> None:
        """Connect to the daemon's socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))
