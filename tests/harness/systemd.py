"""A booted systemd with txninsightd in it as an operator would install it, and the means to watch and to disturb it.

The unit is the one that ships. A drop-in shortens its times; the program, its libraries and its interpreter are bound
into /opt of the machine, since the account that the unit makes up may read nothing of a home directory.
"""

import os
import shlex
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.harness.http import free_port, http_status
from tests.harness.json_log import Line, parse_lines
from tests.harness.paths import ROOT
from tests.harness.waiting import HANG_GUARD_S, await_that

BOOT = Path(__file__).with_name("boot_systemd")
UNIT = "txninsightd.service"

QUICK = """[Service]
WatchdogSec=4
RestartSec=100ms
"""

MACHINE_TARGET = """[Unit]
Wants=basic.target
After=basic.target
AllowIsolate=yes
"""

SUPERVISE = {"heartbeat_timeout_s": 3, "backoff_initial_s": 0.05, "backoff_max_s": 0.1, "give_up_after": 12}


def why_not() -> str:
    """What this machine lacks to boot a second systemd; empty if nothing is lacking."""
    able = subprocess.run([BOOT, "able"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return able.stderr.strip() if able.returncode else ""


class Machine:
    """`directory`: a new one of its own. Nothing listens at the broker's address."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._state = directory / "machine"
        units = directory / "units"
        drop_ins = units / f"{UNIT}.d"
        drop_ins.mkdir(parents=True)
        (units / UNIT).write_bytes((ROOT / "systemd" / UNIT).read_bytes())
        (drop_ins / "quick.conf").write_text(QUICK)
        (units / "machine.target").write_text(MACHINE_TARGET)
        self._write_config()
        self._write_prepare()
        subprocess.run([BOOT, "start", self._state, units, directory / "prepare"], stdin=subprocess.DEVNULL, check=True)

    def _write_config(self) -> None:
        config = {
            "kafka": {"client": {"bootstrap.servers": f"127.0.0.1:{free_port()}"}},
            "topics": ["orders"],
            "http": {"listen": f"127.0.0.1:{self.port}"},
            "supervise": SUPERVISE,
            "log": {"format": "json"},
        }
        (self.directory / "txninsight.yaml").write_text(yaml.safe_dump(config))

    def _write_prepare(self) -> None:
        """Write the script that prepares the machine's root before the boot."""
        libraries, interpreter = sysconfig.get_paths()["purelib"], Path(sys.base_prefix)
        bound = {ROOT / "txninsightd": "/opt/txninsightd/src/txninsightd", Path(libraries): "/opt/txninsightd/lib"}
        python = Path("/usr/bin", f"python3.{sys.version_info.minor}")
        if interpreter != Path("/usr"):
            bound[interpreter] = "/opt/python"
            python = Path("/opt/python/bin", python.name)
        lines = ["#!/bin/sh", "set -e"]
        for source, target in bound.items():
            lines += [f'mkdir -p "$1{target}"', f'mount --bind {shlex.quote(str(source))} "$1{target}"']
        program = (
            "#!/bin/sh\\n"
            "export PYTHONPATH=/opt/txninsightd/src:/opt/txninsightd/lib PYTHONDONTWRITEBYTECODE=1\\n"
            "export LD_LIBRARY_PATH=/opt/python/lib\\n"
            f'exec {python} -m txninsightd.cli "$@"\\n'
        )
        config = shlex.quote(str(self.directory / "txninsight.yaml"))
        lines += [
            'mkdir -p "$1/opt/txninsightd/bin" "$1/etc/txninsightd"',
            f"printf '{program}' >\"$1/opt/txninsightd/bin/txninsightd\"",
            'chmod 755 "$1/opt/txninsightd/bin/txninsightd"',
            f'install -m 644 {config} "$1/etc/txninsightd/txninsight.yaml"',
        ]
        prepare = self.directory / "prepare"
        prepare.write_text("\n".join(lines) + "\n")
        prepare.chmod(0o755)

    def stop(self) -> None:
        """Kill everything in it."""
        subprocess.run([BOOT, "stop", self._state], stdin=subprocess.DEVNULL, check=True)

    # --- Looking ------------------------------------------------------------------------------------------------------

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine."""
        return subprocess.run(
            [BOOT, "run", self._state, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANG_GUARD_S,
        )

    def systemctl(self, *arguments: str) -> None:
        """Run systemctl, which must succeed."""
        done = self.run("systemctl", *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}{self.journal()}"

    def show(self, name: str) -> str:
        """One property of the unit."""
        return self.run("systemctl", "show", "--value", "--property", name, UNIT).stdout.strip()

    def journal(self) -> str:
        """What the service logged, and systemd about it."""
        return self.run("journalctl", "--unit", UNIT, "--output", "cat", "--no-pager").stdout

    def log(self, **wanted: Any) -> list[Line]:
        """The daemon's own lines that have these values."""
        return parse_lines(self.journal().splitlines(), **wanted)

    def pids(self) -> dict[str, int]:
        """The service's processes by name (the parent's too), with the ids that the host knows them by."""
        processes = self._cgroup() / "cgroup.procs"
        hosts = [int(pid) for pid in processes.read_text().split()] if processes.exists() else []
        by_inner = {inner_pid(pid): pid for pid in hosts}
        names = {line["pid"]: line["child"] for line in self.log(event="child_started")}
        names[int(self.show("MainPID"))] = "parent"
        return {names.get(inner, f"unknown {inner}"): pid for inner, pid in by_inner.items()}

    def _cgroup(self) -> Path:
        return Path((self._state / "cgroup").read_text().strip(), "system.slice", UNIT)

    def http_status(self, path: str) -> int:
        """The HTTP status of a GET; 0 without an answer."""
        return http_status(f"http://127.0.0.1:{self.port}{path}")

    def await_that(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition holds."""
        await_that(condition, what, output=self.journal)


def inner_pid(pid: int) -> int:
    """The id of a process in the innermost namespace that it lives in; -1: it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return -1
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])


def freeze(pid: int) -> None:
    """SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)
