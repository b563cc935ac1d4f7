"""Requirements of this machine: Java 17, Maven, Prometheus and Alertmanager, and free ports.

Missing packages are installed through apt if that needs no question (root on Debian); else the error names them. Only
the programs are needed, so a package's service is masked before it would start. Debian has no Grafana; it is used if
installed. Ports for tests lie below the kernel's range for outgoing connections, so a restarted broker finds its port
free again.
"""

import os
import random
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from txninsightd.tools.stack import StackError

HOST = "127.0.0.1"
JAVA_MAJOR = 17
PACKAGES = {
    "java": "openjdk-17-jre-headless",
    "mvn": "maven",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
}
SERVICES = ("prometheus", "prometheus-alertmanager")
UNITS = Path("/etc/systemd/system")
GRAFANA_HOME = Path("/usr/share/grafana")
GRAFANA_PROGRAMS = ("grafana", "grafana-server")
TEST_PORTS = range(20_000, 32_000)
_drawn: set[int] = set()


def ensure_commands(names: Iterable[str]) -> None:
    """Make sure that the commands (keys of `PACKAGES`) exist; raise StackError if only you can install them."""
    missing = [name for name in names if not is_usable(name)]
    if not missing:
        return
    packages = [PACKAGES[name] for name in missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        needed = f" (Java {JAVA_MAJOR} or later is needed)" if "java" in missing else ""
        raise StackError(
            f"{' and '.join(missing)} missing{needed}. "
            f"Install them, on Debian or Ubuntu with: sudo apt-get install {' '.join(packages)}"
        )
    # Mask first: Debian starts a package's service during installation.
    mask_services(packages)
    apt_install(packages)
    still = [name for name in missing if not is_usable(name)]
    if still:
        raise StackError(f"{' and '.join(still)} still not usable after installing {' '.join(packages)}: check PATH")


def is_usable(command: str) -> bool:
    """Whether the command is on the PATH and, for java, recent enough."""
    if shutil.which(command) is None:
        return False
    return command != "java" or java_major() >= JAVA_MAJOR


def java_major() -> int:
    """The major version of the `java` on the PATH; 0 if unknown."""
    output = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', output)
    return int(found.group(1)) if found else 0


def apt_install(packages: list[str]) -> None:
    """Install Debian packages without questions; raise StackError with apt's message when it fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    for command in (["apt-get", "update", "-q"], install):
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise StackError(f"{' '.join(command)} failed: {last_lines(done.stdout + done.stderr)}")


def mask_services(packages: Iterable[str]) -> None:
    """Mask the services of these packages, now and at each boot; prints how to undo it."""
    for name in packages:
        unit = UNITS / f"{name}.service"
        if name in SERVICES and not unit.is_symlink() and not unit.exists():
            UNITS.mkdir(parents=True, exist_ok=True)
            unit.symlink_to(os.devnull)
            print(f"masked the service of {name}, only its programs are used (systemctl unmask {name} undoes it)")


def grafana() -> list[str] | None:
    """The start of a command line for Grafana's server, with its home; None if it is not installed.

    The package's wrappers on the PATH add their own options, so the programs in its home come first.
    """
    found = (shutil.which(name, path=path) for path in (str(GRAFANA_HOME / "bin"), None) for name in GRAFANA_PROGRAMS)
    program = next(filter(None, found), None)
    if program is None:
        return None
    homes = [GRAFANA_HOME, Path(program).resolve().parents[1]]
    home = next((home for home in homes if (home / "conf" / "defaults.ini").exists()), GRAFANA_HOME)
    return [program, *(["server"] if Path(program).name == "grafana" else []), "--homepath", str(home)]


def last_lines(text: str, count: int = 15) -> str:
    """The end of a log, for an error message."""
    return "\n".join(text.rstrip().splitlines()[-count:])


def is_free(port: int) -> bool:
    """Whether a server can listen on this loopback port now."""
    with socket.socket() as probe:
        # As servers do: connections in TIME_WAIT do not block a port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def require_free(ports: Mapping[str, int]) -> None:
    """Raise StackError for the first port in use; keys are the variables that set the ports."""
    for variable, port in ports.items():
        if not is_free(port):
            raise StackError(
                f"port {port} ({variable}) is used by another program. "
                f"Choose another port with {variable}=..., or find the program with: ss -ltnp 'sport = :{port}'"
            )


def free_ports(count: int) -> list[int]:
    """`count` different free ports, drawn at random; none was drawn in this process before."""
    candidates = [port for port in random.sample(TEST_PORTS, len(TEST_PORTS)) if port not in _drawn]
    ports = [port for port, _ in zip(filter(is_free, candidates), range(count), strict=False)]
    if len(ports) < count:
        raise StackError(f"no {count} free ports in {TEST_PORTS.start}-{TEST_PORTS.stop - 1}")
    _drawn.update(ports)
    return ports
