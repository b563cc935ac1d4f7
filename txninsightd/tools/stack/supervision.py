"""The stack under supervisor: its supervisord.conf, and a client for supervisord.

supervisord runs detached, listens on a Unix socket in the run directory and writes one log per program. All processes
of a stack have the environment variable `MARK` with the run directory. So `make down` finds them even if supervisord
was killed.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from shutil import rmtree
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import Faults, SupervisorTransport  # type: ignore[import-untyped]

from txninsightd.tools.stack import StackError, machine

MARK = "TXNINSIGHTD_STACK"
MAX_SOCKET_PATH_BYTES = 107 - len(".4194304")  # supervisord first binds to the path with its pid appended


@dataclass(frozen=True, kw_only=True)
class Program:
    """A supervised program, started on command; supervisor restarts it when it dies if `is_service`."""

    name: str
    command: Sequence[str]
    is_service: bool = True


def render(run_dir: Path, log_dir: Path, programs: Sequence[Program]) -> str:
    """The text of supervisord.conf. The last program is stopped first."""
    main: dict[str, Mapping[str, object]] = {
        "unix_http_server": {"file": socket_path(run_dir), "chmod": "0700"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface",
        },
        "supervisord": {
            "logfile": log_dir / "supervisord.log",
            "pidfile": run_dir / "supervisord.pid",
            "childlogdir": log_dir,
            # Without it supervisord warns of running as root.
            **({"user": "root"} if os.geteuid() == 0 else {}),
        },
        "supervisorctl": {"serverurl": f"unix://{socket_path(run_dir)}"},
    }
    own = {
        f"program:{program.name}": {**_program(program, log_dir), "priority": priority}
        for priority, program in enumerate(programs, start=1)
    }
    return "\n".join(_section(name, values) for name, values in {**main, **own}.items())


def socket_path(run_dir: Path) -> Path:
    """supervisord's socket; StackError when the path is too long for the kernel."""
    path = run_dir / "supervisor.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise StackError(f"{path} is too long for a unix socket: set RUN_DIR to a directory with a shorter path")
    return path


def _section(name: str, values: Mapping[str, object]) -> str:
    return f"[{name}]\n" + "".join(f"{key}={_escaped(value)}\n" for key, value in values.items())


def _escaped(value: object) -> str:
    # supervisord expands %(name)s in values.
    return str(value).replace("%", "%%")


def _program(program: Program, log_dir: Path) -> dict[str, object]:
    return {
        "command": shlex.join(program.command),
        # `up` starts them one by one.
        "autostart": "false",
        "autorestart": "unexpected" if program.is_service else "false",
        "exitcodes": "0",
        # A program that is not a service may end within a second.
        "startsecs": "1" if program.is_service else "0",
        "startretries": "3" if program.is_service else "0",
        "stopsignal": "TERM",
        "stopwaitsecs": "30",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": log_dir / f"{program.name}.log",
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": "1",
    }


class Supervisor:
    """A client for the supervisord of one run directory."""

    def __init__(self, run_dir: Path, log_dir: Path) -> None:
        self.run_dir = run_dir
        self.log_dir = log_dir
        self.config = run_dir / "supervisord.conf"
        self._server_url = f"unix://{socket_path(run_dir)}"

    def is_up(self) -> bool:
        """Whether supervisord answers."""
        try:
            self._call("getState")
        except (OSError, HTTPException):
            return False
        return True

    def launch(self, config: str) -> None:
        """Delete old logs, write the configuration and start supervisord, which detaches once it listens."""
        rmtree(self.log_dir, ignore_errors=True)
        self.log_dir.mkdir(parents=True)
        self.config.write_text(config)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.config)]
        environment = {**os.environ, MARK: str(self.run_dir)}
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise StackError(f"supervisord did not start:\n{machine.last_lines(done.stdout + done.stderr)}")

    def state(self, program: str) -> str:
        """The state by supervisor's names: RUNNING, STARTING, EXITED, FATAL and so on."""
        return str(self._call("getProcessInfo", program)["statename"])

    def pid(self, program: str) -> int:
        """The process id; 0 when it is not running. A change means that it died and was restarted."""
        return int(self._call("getProcessInfo", program)["pid"])

    def exit_code(self, program: str) -> int:
        """The program's last exit code."""
        return int(self._call("getProcessInfo", program)["exitstatus"])

    def start(self, program: str) -> None:
        """Start the program without waiting until it is ready; does nothing when it runs."""
        try:
            self._call("startProcess", program, False)
        except Fault as fault:
            if fault.faultCode == Faults.ALREADY_STARTED:
                return
            raise StackError(f"{program} could not be started ({fault.faultString}){self._tail(program)}") from fault

    def require_alive(self, program: str) -> None:
        """Raise StackError with the end of its log unless the program is running or starting."""
        state = self.state(program)
        if state not in ("RUNNING", "STARTING"):
            raise StackError(f"{program} is not running ({state}){self._tail(program)}")

    def shut_down(self) -> None:
        """Tell supervisord to stop all programs and itself; returns at once."""
        self._call("shutdown")

    def running(self) -> list[str]:
        """The names of the running programs."""
        return [info["name"] for info in self._call("getAllProcessInfo") if info["pid"]]

    def log_file(self, program: str) -> Path:
        """The program's log file."""
        return self.log_dir / f"{program}.log"

    def _tail(self, program: str) -> str:
        log = self.log_file(program)
        text = log.read_text(errors="replace") if log.exists() else ""
        return f"; the end of {log}:\n{machine.last_lines(text)}" if text.strip() else f"; {log} is empty"

    def _call(self, method: str, *arguments: object) -> Any:
        transport = SupervisorTransport(None, None, self._server_url)
        with ServerProxy(f"http://{machine.HOST}", transport=transport) as server:
            return getattr(server.supervisor, method)(*arguments)
