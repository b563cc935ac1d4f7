"""The Makefile's entry point: `python -m txninsightd.tools.stack up | down | demo | sums`.

Ports and paths come from the environment (see `settings`). Exit code 1 and one message on failure.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from txninsightd.tools.stack import StackError, jars
from txninsightd.tools.stack.demo import demo
from txninsightd.tools.stack.settings import Settings
from txninsightd.tools.stack.up import down, up


def main() -> int:
    """Run the given command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m txninsightd.tools.stack", description="The local stack.")
    parser.add_argument("command", choices=["up", "down", "demo", "sums"])
    command = parser.parse_args().command
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return _run(command)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(command: str) -> int:
    match command:
        case "up":
            up(Settings.from_environment(os.environ))
        case "down":
            stopped = down(Settings.from_environment(os.environ))
            print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")
        case "demo":
            return demo(Settings.from_environment(os.environ, is_demo=True), os.environ)
        case _:
            with tempfile.TemporaryDirectory() as scratch:
                jars.copy_dependencies(Path(scratch))
                jars.SUMS.write_text(jars.format_sums(Path(scratch)))
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
