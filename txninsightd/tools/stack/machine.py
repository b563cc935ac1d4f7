"""What this machine must offer: Java 17, Maven, Prometheus and Alertmanager, and ports that nobody else holds.

What is missing is installed through apt when that is possible without asking anybody (root on a Debian), else the
error names the packages. Only programs are wanted: a package's own service is masked before it would start.
Grafana is in no Debian; it is used where somebody has installed it. Ports for tests are drawn below the range that the
kernel hands out to outgoing connections, so that a broker that is restarted finds its port free again.
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
    """See to it that the commands (keys of `PACKAGES`) are there; raise StackError when that needs a person."""
    lacking = [name for name in names if not is_usable(name)]
    if not lacking:
        return
    packages = [PACKAGES[name] for name in lacking]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        needed = f" (Java {JAVA_MAJOR} or later is needed)" if "java" in lacking else ""
        raise StackError(
            f"{' and '.join(lacking)} missing{needed}. "
            f"Install them, on Debian or Ubuntu with: sudo apt-get install {' '.join(packages)}"
        )
    # First: Debian starts a package's service while it installs it.
    mask_services(packages)
    apt_install(packages)
    still = [name for name in lacking if not is_usable(name)]
    if still:
        raise StackError(f"{' and '.join(still)} still not usable after installing {' '.join(packages)}: look at PATH")


def is_usable(command: str) -> bool:
    """Whether the command is on the PATH, and for java, recent enough."""
    if shutil.which(command) is None:
        return False
    return command != "java" or java_major() >= JAVA_MAJOR


def java_major() -> int:
    """The major version of the `java` on the PATH; 0 when it does not say."""
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    return int(found.group(1)) if found else 0


def apt_install(packages: list[str]) -> None:
    """Install Debian packages without questions; raise StackError with apt's own words when it fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    for command in (["apt-get", "update", "-q"], install):
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise StackError(f"{' '.join(command)} failed: {last_lines(done.stdout + done.stderr)}")


def mask_services(packages: Iterable[str]) -> None:
    """Keep those of the packages that have a service from starting it, now and at each boot; says how to undo it."""
    for name in packages:
        unit = UNITS / f"{name}.service"
        if name in SERVICES and not unit.is_symlink() and not unit.exists():
            UNITS.mkdir(parents=True, exist_ok=True)
            unit.symlink_to(os.devnull)
            print(f"only the programs of {name} are used: its service is masked (systemctl unmask {name} undoes it)")


def grafana() -> list[str] | None:
    """The beginning of a command line that runs Grafana's server, its home included; None when it is not installed.

    What its package puts on the PATH are wrappers with options of their own, so the programs in its home come first.
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
    """Whether a server could listen on this port of the loopback interface now."""
    with socket.socket() as probe:
        # As servers do: connections that linger in TIME_WAIT take nothing away.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def require_free(ports: Mapping[str, int]) -> None:
    """Raise StackError for the first taken port; keys are the variables by which a person changes them."""
    for variable, port in ports.items():
        if not is_free(port):
            raise StackError(
                f"port {port} ({variable}) is taken by another program. "
                f"Choose another one with {variable}=..., or find the other with: ss -ltnp 'sport = :{port}'"
            )


def free_ports(count: int) -> list[int]:
    """So many different ports that are free now, drawn at random, and none that was drawn in this process before."""
    candidates = [port for port in random.sample(TEST_PORTS, len(TEST_PORTS)) if port not in _drawn]
    ports = [port for port, _ in zip(filter(is_free, candidates), range(count), strict=False)]
    if len(ports) < count:
        raise StackError(f"no {count} free ports in {TEST_PORTS.start}-{TEST_PORTS.stop - 1}")
    _drawn.update(ports)
    return ports
