"""Which values of the Host header are answered, so that a web page of a stranger cannot read the API.

A browser lets a page read what the page's own host answers. Its owner can let that host's name resolve to the address
of this machine (DNS rebinding), also to 127.0.0.1. The browser then sends the owner's name as the Host. So only these
are answered: IP addresses, `localhost`, the machine's own names, and those of `http.allowed_hosts`.

The machine's names come from its host name, /etc/hosts and the search domains of /etc/resolv.conf, and not from the
DNS: a query may take many seconds to fail, and the aggregator's loop must not wait.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

ANY = "*"

_HOST = re.compile(r"(?P<name>\[[^\]]*\]|[^:]*)(:\d*)?")


class AllowedHosts:
    """`configured`: the names of `http.allowed_hosts`. `.name` stands for the name and all below it, `*` for any."""

    def __init__(self, configured: Iterable[str], own: Iterable[str] = ()) -> None:
        names = {name.lower() for name in configured}
        self._any = ANY in names
        self._domains = tuple(name for name in names if name.startswith("."))
        self._names = {"localhost", *own, *names, *(domain[1:] for domain in self._domains)}

    def allows(self, host: str) -> bool:
        """Whether a request with this Host header (a name or an address, perhaps with a port) is answered."""
        match = _HOST.fullmatch(host.lower())
        if match is None:
            return self._any
        name = match["name"].removesuffix(".")
        return self._any or name in self._names or name.endswith(self._domains) or _is_address(name)


def own_names(hosts: Path = Path("/etc/hosts"), resolver: Path = Path("/etc/resolv.conf")) -> set[str]:
    """The names of this machine, in lower case."""
    host_name = socket.gethostname().lower()
    short = host_name.partition(".")[0]
    names = {host_name, short}
    for words in _lines(resolver):
        if words[0] in ("search", "domain"):
            names |= {f"{short}.{domain.strip('.')}" for domain in words[1:]}
    for _, *aliases in _lines(hosts):
        if not names.isdisjoint(aliases):
            names.update(aliases)
    return names - {""}


def _lines(path: Path) -> list[list[str]]:
    """The words of each line that is no comment; none if the file cannot be read."""
    text = ""
    with suppress(OSError):
        text = path.read_text(errors="replace").lower()
    lines = (re.split("[#;]", line)[0].split() for line in text.splitlines())
    return [words for words in lines if words]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
