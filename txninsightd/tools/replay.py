"""txninsight-replay: publishes an events.jsonl to a real Kafka as its producers did, in their time.

The file is read twice. The first pass finds what it asks for (topics, producers and when they come and go, bad lines)
and nothing is published until the cluster is known to have it; the second one publishes. Each producer of the file is
a real one here: Kafka transactions begin, commit and abort as written, and a producer that crashes is a process that is
killed. docs/replay.md tells it to users.

Exit codes: 0 all published, 1 some records or transactions failed, 2 refused before anything was published, 130
interrupted.
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

from txninsightd.tools.events_file import PlainEvents, read_lines
from txninsightd.tools.replaying.cluster import Cluster, Refusal, client_properties
from txninsightd.tools.replaying.conductor import Conductor, Rewrite
from txninsightd.tools.replaying.crashing_producer import CrashingPublisher
from txninsightd.tools.replaying.plan import Life, Survey, Timeline, TsPaths, rebase_start, survey
from txninsightd.tools.replaying.publisher import ProducerSettings, Publisher
from txninsightd.tools.replaying.report import Display, Ending, PublishingBar, write_summary
from txninsightd.tools.replaying.tally import Board
from txninsightd.tools.replaying.timestamps import DEFAULT_TS_PATHS
from txninsightd.tools.replaying.workers import Crew, Worker

DEFAULT_TRANSACTION_TIMEOUT_S = 60.0
# Timed, a full queue would hold up everybody's lines, so there is room; as fast as it goes, it is what bounds memory.
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
        self._board = Board()
        self._stopping = threading.Event()

    def run(self) -> int:
        found = self._survey()
        created = self._prepare_cluster(found)
        with self._display.publishing(found, self._board) as bar, _stopped_by_signals(self._stopping):
            ending = self._publish(found, created, bar)
        self._display.ending(ending)
        if self._arguments.summary_json:
            write_summary(self._arguments.summary_json, ending)
        return ending.exit_code

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
        # Without this the broker would soon delete what was stamped long ago.
        config = {"retention.ms": "-1"} if self._arguments.keep_time else {}
        cluster = Cluster(self._properties)
        return cluster.prepare(
            found.topics,
            create=self._partitions(found) if self._arguments.create_topics else None,
            config=config,
        )

    def _partitions(self, found: Survey) -> dict[str, int]:
        said = {name: facts.partitions for name, facts in found.header.topics.items()}
        return {
            name: self._arguments.partitions or said.get(name) or (highest + 1 if highest >= 0 else -1)
            for name, highest in found.topics.items()
        }

    def _publish(self, found: Survey, created: list[str], bar: PublishingBar) -> Ending:
        timeline = Timeline(found.first_at, self._arguments.speed)
        crew = Crew(self._hiring(found, timeline))
        conductor = Conductor(found, timeline, crew, self._stopping, bar.show)
        try:
            conductor.start_first()
            started_at, rewrite = self._start(found)
            # The same moment by the clock that lines are timed with.
            start = time.monotonic() + started_at - time.time()
            self._file.seek(0)
            conductor.run(read_lines(self._file, self._plain), rewrite, start)
        finally:
            crew.finish()
        return Ending(
            found=found,
            tally=self._board.sum,
            progress=conductor.progress,
            interrupted=self._stopping.is_set(),
            started_at=started_at,
            ended_at=time.time(),
            shift_s=rewrite.shift_s,
            created_topics=created,
        )

    def _start(self, found: Survey) -> tuple[float, Rewrite]:
        """When to start (epoch seconds), and what is done to timestamps."""
        epoch, paths, now = found.epoch, found.ts_paths, time.time()
        if self._arguments.keep_time:
            return now, Rewrite(paths, keep_time=True, epoch=epoch)
        start, shift_s = rebase_start(now, found.first_at + epoch, found.last_at + epoch, self._arguments.speed)
        return start, Rewrite(paths, shift_s)

    def _hiring(self, found: Survey, timeline: Timeline) -> Callable[[Life, Worker | None], Worker]:
        prefix = self._arguments.transactional_id_prefix
        suffix = f"-{uuid.uuid4().hex[:8]}" if prefix is None else ""
        # What the operator says goes over ours.
        properties = (TIMED_PROPERTIES if timeline.is_timed else FAST_PROPERTIES) | self._properties
        timeout_s = self._arguments.transaction_timeout or found.header.transaction_timeout_s
        queued = QUEUED_BATCHES_TIMED if timeline.is_timed else QUEUED_BATCHES_FAST

        def hire(life: Life, predecessor: Worker | None) -> Worker:
            transactional_id = f"{prefix or ''}{life.producer}{suffix}" if life.transactional else None
            settings = ProducerSettings(
                life.producer, properties, transactional_id, timeout_s or DEFAULT_TRANSACTION_TIMEOUT_S
            )
            kind = CrashingPublisher if life.crashes else Publisher
            return Worker(kind(settings, self._stopping), self._board, self._stopping, queued, predecessor)

        return hire


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    """The file, which must be readable twice: what comes from stdin is set aside in a temporary file."""
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
    """The first Ctrl-C or SIGTERM asks for an orderly stop; a second one ends the process at once."""

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
        description="Publish an events.jsonl to Kafka as its producers did, in their time.",
        epilog="Exit codes: 0 all published; 1 some records or transactions failed; 2 refused before anything was "
        "published; 130 interrupted.",
    )
    parser.add_argument("file", metavar="FILE", help="events.jsonl, or - for standard input")
    parser.add_argument(
        "--bootstrap", required=True, metavar="HOST:PORT", help="brokers to begin with, comma separated"
    )
    parser.add_argument(
        "--client-config", type=Path, metavar="FILE", help="more librdkafka properties, one key=value a line"
    )
    parser.add_argument("--strict", action="store_true", help="refuse a file with bad lines instead of skipping them")
    parser.add_argument("--summary-json", type=Path, metavar="FILE", help="write the summary to this file, too")
    _add_time(parser.add_argument_group("time"))
    _add_topics(parser.add_argument_group("topics and producers"))
    return parser


def _add_time(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--speed",
        type=_speed,
        default=1.0,
        metavar="N|max",
        help="N times the original speed (default 1), or max: as fast as it goes; order is then kept for each "
        "producer, but not between producers",
    )
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--rebase",
        choices=["now"],
        help="shift all timestamps in values by one constant, so that the last event is about now (the default)",
    )
    choice.add_argument(
        "--keep-time",
        action="store_true",
        help="leave timestamps alone, stamp each record with its original time, and mark it by a header, so that "
        "nobody is paged for history",
    )
    group.add_argument(
        "--ts-field",
        action="append",
        metavar="PATH",
        help="dotted path of a timestamp in values (default: the file's header, else ts); may be given several times",
    )


def _add_topics(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--topic", metavar="NAME", help="topic of plain event lines")
    group.add_argument(
        "--key-field", default="txn_id", metavar="PATH", help="dotted path of plain events' key (default txn_id)"
    )
    group.add_argument("--create-topics", action="store_true", help="create topics that are missing")
    group.add_argument(
        "--partitions",
        type=_count,
        metavar="N",
        help="partitions of created topics (default: what the file says or names, else the broker's default)",
    )
    group.add_argument(
        "--transaction-timeout",
        type=_timeout,
        metavar="S",
        help="transaction.timeout.ms of the producers, in seconds (default: the file's header, else "
        f"{DEFAULT_TRANSACTION_TIMEOUT_S:g}); after it the broker aborts what a crashed producer left open",
    )
    group.add_argument(
        "--transactional-id-prefix",
        metavar="TEXT",
        help="make transactional ids of this text and the producer's name (default: the name and a suffix unique to "
        "the run); a second run with the same text ends what the first one left open",
    )


def _speed(text: str) -> float:
    speed = math.inf if text == "max" else float(text)
    # Not `<= 0`, which would let NaN pass.
    if not speed > 0:
        raise ValueError
    return speed


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


def _timeout(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds < math.inf:
        raise argparse.ArgumentTypeError("at least 1 second")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
