"""Ports and HTTP requests on 127.0.0.1."""

import urllib.error
import urllib.request

from txninsightd.tools.stack import machine


def free_port() -> int:
    """A port that is free now, and that no outgoing connection gets while its server restarts."""
    return machine.free_ports(1)[0]


def http_status(url: str) -> int:
    """The HTTP status of a GET; 0 without an answer."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
