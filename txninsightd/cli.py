"""txninsightd's command line."""

import argparse
import errno
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from txninsightd import __version__, logs, standard_streams
from txninsightd.config import ConfigError, check_config, load_config, load_state_directory
from txninsightd.daemon import run_daemon
from txninsightd.tools.forget import forget

EXIT_UNSAID = 1
EXIT_CONFIG = 2
DEFAULT_CONFIG = Path("/etc/txninsightd/txninsight.yaml")

EXIT_CODES = """exit codes:
  0  stopped in order (SIGTERM, SIGINT)
  1  a fault in the daemon itself; the traceback is in the log. Of `forget`: not done; the reason is printed. Of
     --check-config, --help and --version: standard output cannot be written
  2  the configuration is not usable; one line for each fault on standard error
  3  a child process exited too often, and the daemon gave up
  4  no usable Kafka client: it refuses the properties of kafka.client, or is too old to be trusted
  5  a child did not stop in order, or not within supervise.stop_timeout_s
  6  http.listen cannot be listened on
  7  state.directory cannot be used; the log says what to do
  8  stopped in order, but the last checkpoint could not be written: what came since the one before is read again
  9  the host has too few descriptors, threads or memory for it; the log names the limit and what to set
"""


def main() -> None:
    """Entry point."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Parse, check, run; gives the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "forget":
        return _forget(options)
    if options.check_config:
        lines, code = check_config(options.config, os.environ)
        return code if _say("\n".join(lines), code) or code else EXIT_UNSAID
    try:
        config = load_config(options.config, os.environ)
    except ConfigError as error:
        _say(str(error), EXIT_CONFIG)
        return EXIT_CONFIG
    standard_streams.take_over()
    logs.setup(config.log.level, config.log.format)
    logs.bind("parent")
    return run_daemon(config, options.config)


def _forget(options: argparse.Namespace) -> int:
    try:
        directory = load_state_directory(options.config, os.environ)
    except ConfigError as error:
        _say(str(error), EXIT_CONFIG)
        return EXIT_CONFIG
    answer = forget(options.txn_id, directory)
    # The code tells what was done, also where the text cannot be written.
    _say(answer.text, answer.exit_code)
    return answer.exit_code


def _say(text: str, code: int) -> bool:
    """Print what the command has to say, with this exit code; returns whether it could be written."""
    return _print(f"{text}\n", sys.stderr if code else sys.stdout)


def _print(text: str, stream: TextIO | None) -> bool:
    """Write and flush. A failure is said on standard error, and leaves nothing that could fail at the exit."""
    try:
        if stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        stream.write(text)
        stream.flush()
    except OSError as failure:
        if stream is not None:
            # The text is still in the stream's buffer, and is written at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if stream is not sys.stderr:
            _print(f"txninsightd: standard output cannot be written: {failure.strerror}\n", sys.stderr)
        return False
    return True


class _Parser(argparse.ArgumentParser):
    """Prints help and version as everything else is printed."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if message and not _print(message, file or sys.stderr) and file is not sys.stderr:
            sys.exit(EXIT_UNSAID)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="txninsightd",
        description="Watch business transactions that run through Kafka: what is open, slow or stuck, and why.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="the YAML file (default: %(default)s)"
    )
    parser.add_argument(
        "--check-config", action="store_true", help="print every fault of the configuration, one a line, and exit"
    )
    parser.add_argument("--version", action="version", version=f"txninsightd {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands for a running daemon")
    forgetting = commands.add_parser(
        "forget",
        help="end a transaction that is known to be dead",
        description="End a live transaction that is known to be dead, such as one that was never committed. It is "
        "counted as forgotten, and its later events as late. It is done when the command returns 0.",
    )
    forgetting.add_argument("txn_id", metavar="TXN_ID", help="its id (after -- if it begins with a -)")
    # Any default other than SUPPRESS would overwrite a --config before the command.
    forgetting.add_argument(
        "--config", type=Path, default=argparse.SUPPRESS, metavar="FILE", help="the running daemon's YAML file"
    )
    return parser


if __name__ == "__main__":
    main()
