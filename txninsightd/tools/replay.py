"""txninsight-replay: publishes an events.jsonl to a real Kafka, with its original producers and timing.

It reads the file twice. The first pass finds the topics, the producers, their first and last lines, and bad lines; then
it checks that the cluster has what the file needs. The second pass publishes. Each producer of the file becomes a real
producer: Kafka transactions begin, commit and abort as written, and a crash is a killed process. docs/replay.md is the
user's guide.

Exit codes: 0 all published, 1 some records or transactions failed, 2 refused before publishing, 130 interrupted.
"""

import argparse
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from rich.console import Console

from txninsightd import __version__
from txninsightd.tools.events_file import PlainEvents, read_lines
from txninsightd.tools.replaying.cluster import Cluster, Refusal, client_properties
from txninsightd.tools.replaying.counts import Totals
from txninsightd.tools.replaying.crashing_producer import CrashingPublisher
from txninsightd.tools.replaying.dispatcher import Dispatcher, Rewrite
from txninsightd.tools.replaying.plan import ProducerSession, Survey, Timeline, TsPaths, rebase_start, survey
from txninsightd.tools.replaying.publisher import ProducerSettings, Publisher
from txninsightd.tools.replaying.report import Display, PublishingBar, ReplayResult, write_summary
from txninsightd.tools.replaying.timestamps import DEFAULT_TS_PATHS
from txninsightd.tools.replaying.workers import Worker, WorkerPool

DEFAULT_TRANSACTION_TIMEOUT_S = 60.0
# With timing, a full queue would delay all lines, so it is large. Without timing, it bounds memory.
QUEUED_BATCHES_TIMED = 10_000
QUEUED_BATCHES_FAST = 8
FAST_PROPERTIES = {"linger.ms": "5"}
TIMED_PROPERTIES = {"linger.ms": "0"}


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    display = Display(Console(stderr=True))
    try:
        with _opened(arguments.file) as file:
            return _Replay(arguments, file, display).run()
    except Refusal as refusal:
        display.say(f"txninsight-replay: {refusal}")
        return 2
    except KeyboardInterrupt:
        display.say("txninsight-replay: interrupted")
        return 130


class _Replay:
    """One run of the command."""

    def __init__(self, arguments: argparse.Namespace, file: IO[bytes], display: Display) -> None:
        self._arguments = arguments
        self._file = file
        self._display = display
        self._properties = client_properties(arguments.bootstrap, arguments.client_config)
        self._ts_paths = TsPaths(tuple(arguments.ts_field) if arguments.ts_field else None)
        self._plain = PlainEvents(arguments.topic, self._ts_paths.given or DEFAULT_TS_PATHS, arguments.key_field)
        self._totals = Totals()
        self._stopping = threading.Event()

    def run(self) -> int:
        found = self._survey()
        created = self._prepare_cluster(found)
        with self._display.publishing(found, self._totals) as bar, _stopped_by_signals(self._stopping):
            result = self._publish(found, created, bar)
        self._display.show_result(result)
        if self._arguments.summary_json:
            write_summary(self._arguments.summary_json, result)
        return result.exit_code

    def _survey(self) -> Survey:
        size_bytes = os.fstat(self._file.fileno()).st_size
        lines = self._display.surveying(self._file, size_bytes)
        found = survey(read_lines(lines, self._plain), self._ts_paths)
        self._display.bad_lines(found, skipped=not self._arguments.strict)
        if found.bad.count and self._arguments.strict:
            raise Refusal(f"{self._arguments.file} has bad lines, and --strict was given")
        if not found.events:
            raise Refusal(f"{self._arguments.file} has no line that can be published")
        return found

    def _prepare_cluster(self, found: Survey) -> list[str]:
        # Else retention would soon delete records with old timestamps.
        config = {"retention.ms": "-1"} if self._arguments.keep_time else {}
        cluster = Cluster(self._properties)
        return cluster.prepare(
            found.topics,
            create=self._partitions(found) if self._arguments.create_topics else None,
            config=config,
        )

    def _partitions(self, found: Survey) -> dict[str, int]:
        in_header = {name: facts.partitions for name, facts in found.header.topics.items()}
        return {
            name: self._arguments.partitions or in_header.get(name) or (highest + 1 if highest >= 0 else -1)
            for name, highest in found.topics.items()
        }

    def _publish(self, found: Survey, created: list[str], bar: PublishingBar) -> ReplayResult:
        timeline = Timeline(found.first_at, self._arguments.speed)
        pool = WorkerPool(self._worker_factory(found, timeline))
        dispatcher = Dispatcher(found, timeline, pool, self._stopping, bar.show)
        try:
            dispatcher.start_first()
            started_at, rewrite = self._start(found)
            # Convert it to the monotonic clock.
            start = time.monotonic() + started_at - time.time()
            self._file.seek(0)
            dispatcher.run(read_lines(self._file, self._plain), rewrite, start)
        finally:
            pool.finish()
        return ReplayResult(
            found=found,
            counts=self._totals.sum,
            progress=dispatcher.progress,
            interrupted=self._stopping.is_set(),
            started_at=started_at,
            ended_at=time.time(),
            shift_s=rewrite.shift_s,
            created_topics=created,
        )

    def _start(self, found: Survey) -> tuple[float, Rewrite]:
        """When to start (epoch seconds), and how timestamps are rewritten."""
        epoch, paths, now = found.epoch, found.ts_paths, time.time()
        if self._arguments.keep_time:
            return now, Rewrite(paths, keep_time=True, epoch=epoch)
        start, shift_s = rebase_start(now, found.first_at + epoch, found.last_at + epoch, self._arguments.speed)
        return start, Rewrite(paths, shift_s)

    def _worker_factory(self, found: Survey, timeline: Timeline) -> Callable[[ProducerSession, Worker | None], Worker]:
        prefix = self._arguments.transactional_id_prefix
        suffix = f"-{uuid.uuid4().hex[:8]}" if prefix is None else ""
        # The operator's properties win over ours.
        properties = (TIMED_PROPERTIES if timeline.is_timed else FAST_PROPERTIES) | self._properties
        timeout_s = self._arguments.transaction_timeout or found.header.transaction_timeout_s
        queued = QUEUED_BATCHES_TIMED if timeline.is_timed else QUEUED_BATCHES_FAST

        def create_worker(session: ProducerSession, predecessor: Worker | None) -> Worker:
            transactional_id = f"{prefix or ''}{session.producer}{suffix}" if session.transactional else None
            settings = ProducerSettings(
                session.producer, properties, transactional_id, timeout_s or DEFAULT_TRANSACTION_TIMEOUT_S
            )
            kind = CrashingPublisher if session.crashes else Publisher
            return Worker(kind(settings, self._stopping), self._totals, self._stopping, queued, predecessor)

        return create_worker


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    """Open the file so that it can be read twice; standard input is copied to a temporary file."""
    if path == "-":
        with tempfile.TemporaryFile() as spool:
            shutil.copyfileobj(sys.stdin.buffer, spool)
            spool.seek(0)
            yield spool
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - the with statement below has it; only the opening may refuse
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}") from error
    with file:
        yield file


@contextmanager
def _stopped_by_signals(stopping: threading.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM requests an orderly stop; a second one ends the process at once."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="txninsight-replay",
        description="Publish an events.jsonl to Kafka with its original producers and timing.",
        epilog="Exit codes: 0 all published; 1 some records or transactions failed; 2 refused before publishing; "
        "130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"txninsight-replay {__version__}")
    parser.add_argument("file", metavar="FILE", help="events.jsonl, or - for standard input")
    parser.add_argument("--bootstrap", required=True, metavar="HOST:PORT", help="bootstrap servers, comma separated")
    parser.add_argument(
        "--client-config", type=Path, metavar="FILE", help="more librdkafka properties, one key=value a line"
    )
    parser.add_argument("--strict", action="store_true", help="refuse a file with bad lines instead of skipping them")
    parser.add_argument("--summary-json", type=Path, metavar="FILE", help="also write the summary to this file")
    _add_time(parser.add_argument_group("time"))
    _add_topics(parser.add_argument_group("topics and producers"))
    return parser


def _add_time(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--speed",
        type=_speed,
        default=1.0,
        metavar="N|max",
        help="N times the original speed (default 1), or max: as fast as possible; then the order is kept within each "
        "producer, but not between producers",
    )
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--rebase",
        choices=["now"],
        help="shift all timestamps in values by one constant: the last event is then about now (the default)",
    )
    choice.add_argument(
        "--keep-time",
        action="store_true",
        help="keep all timestamps, give each record its original time, and mark it with a header, so history pages no "
        "on-call engineer",
    )
    group.add_argument(
        "--ts-field",
        action="append",
        metavar="PATH",
        help="dotted path of a timestamp in values (default: the file's header, else ts); repeatable",
    )


def _add_topics(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--topic", metavar="NAME", help="topic of plain event lines")
    group.add_argument(
        "--key-field", default="txn_id", metavar="PATH", help="dotted path of plain events' key (default txn_id)"
    )
    group.add_argument("--create-topics", action="store_true", help="create missing topics")
    group.add_argument(
        "--partitions",
        type=_count,
        metavar="N",
        help="partitions of created topics (default: as in the file, else the broker's default)",
    )
    group.add_argument(
        "--transaction-timeout",
        type=_timeout,
        metavar="S",
        help="transaction.timeout.ms of the producers, in seconds (default: the file's header, else "
        f"{DEFAULT_TRANSACTION_TIMEOUT_S:g}); after it the broker aborts the transaction of a crashed producer",
    )
    group.add_argument(
        "--transactional-id-prefix",
        metavar="TEXT",
        help="prefix of transactional ids before the producer's name (default: the name and a suffix unique to the "
        "run); a second run with the same prefix aborts what the first one left open",
    )


def _speed(text: str) -> float:
    speed = math.inf if text == "max" else _number(text)
    # `<= 0` would accept NaN.
    if not speed > 0:
        raise argparse.ArgumentTypeError(f"expected a number greater than 0, or max (found {text})")
    return speed


def _count(text: str) -> int:
    count = _number(text)
    if not (count >= 1 and count.is_integer()):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1 (found {text})")
    return int(count)


def _timeout(text: str) -> float:
    seconds = _number(text)
    if not 1 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, at least 1 (found {text})")
    return seconds


def _number(text: str) -> float:
    """NaN where the text is no number, which no bound accepts."""
    try:
        return float(text)
    except ValueError:
        return math.nan


if __name__ == "__main__":
    sys.exit(main())
