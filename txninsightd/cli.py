"""txninsightd's command line."""

import argparse
import os
import sys
from pathlib import Path

from txninsightd import __version__, logs
from txninsightd.config import ConfigError, check_config, load_config, load_state_directory
from txninsightd.daemon import run_daemon
from txninsightd.tools.forget import forget

EXIT_CONFIG = 2
DEFAULT_CONFIG = Path("/etc/txninsightd/txninsight.yaml")

EXIT_CODES = """exit codes:
  0  stopped in order (SIGTERM, SIGINT)
  1  a fault in the daemon itself; the traceback is on standard error. Of `forget`: not done; the reason is printed
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
        print("\n".join(lines), file=sys.stderr if code else sys.stdout)
        return code
    try:
        config = load_config(options.config, os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    logs.setup(config.log.level, config.log.format)
    logs.bind("parent")
    return run_daemon(config, options.config)


def _forget(options: argparse.Namespace) -> int:
    try:
        directory = load_state_directory(options.config, os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    answer = forget(options.txn_id, directory)
    print(answer.text, file=sys.stderr if answer.exit_code else sys.stdout)
    return answer.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
