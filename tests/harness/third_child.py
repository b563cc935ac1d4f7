"""A parent over a real aggregator and a child of a third kind, as a program: what test_third_child.py kills.

    python -m tests.harness.third_child none

The child is no reader: it sends a `Discovery` every 50 ms, with one problem that names the sending process. The
aggregator logs problems that it has not seen before.
"""

import asyncio
import os
import select
import socket
import sys
import time
from pathlib import Path

import structlog

from txninsightd import clock, daemon, logs
from txninsightd.aggregate.aggregator import Aggregator
from txninsightd.aggregate.assembly import make_pipeline
from txninsightd.aggregate.strict import StrictLoop
from txninsightd.config import Config
from txninsightd.supervise.channel import Channel
from txninsightd.supervise.children import ChildContext, ChildSpec, LineKind
from txninsightd.supervise.config_reload import ConfigReload, ReloadLimits
from txninsightd.supervise.control import Reporter
from txninsightd.supervise.current_config import CurrentConfig
from txninsightd.supervise.notify import Notifier
from txninsightd.supervise.parent import Limits, Parent
from txninsightd.vocabulary import Discovery

SEND_EVERY_S = 0.05
LIMITS = Limits(0.05, 0.2, 5, 300, stop_timeout_s=5.0, heartbeat_timeout_s=5.0)

log = structlog.get_logger()


def aggregator(context: ChildContext) -> None:
    """The daemon's own, without checkpoints and HTTP."""
    asyncio.run(_aggregate(context))


async def _aggregate(context: ChildContext) -> None:
    control, stopping = socket.socket(fileno=context.line), asyncio.Event()
    loop = StrictLoop(asyncio.get_running_loop())
    roles, beat = daemon.reader_roles(Config()), context.heartbeat.beat
    made = Aggregator(make_pipeline(Config(), 0.0), loop, roles, daemon.SCOUT, clock.now, 1.0, beat=beat)
    loop.add_reader(control.fileno(), daemon.take_control_message, control, made, stopping)
    await daemon.tick_until_stopped(made, Reporter(control), stopping, SEND_EVERY_S)


def collector(context: ChildContext) -> None:
    """Sends until it is told to stop, or its line ends."""
    line = Channel(context.line)
    while not context.stopping() and not line.closed:
        context.heartbeat.beat()
        line.send(Discovery(clock.now(), [], {}, [f"sent by {os.getpid()}"]))
        select.select([line.fileno()], [], [], SEND_EVERY_S)
        for _ in line.receive():
            log.error("collector_received")


if __name__ == "__main__":
    logs.setup("debug", "json")
    specs = [
        ChildSpec("aggregator", aggregator, LineKind.CONTROL),
        ChildSpec("collector-0", collector, LineKind.DATA),
    ]
    reload = ConfigReload(CurrentConfig(Config(), Path()), ReloadLimits())
    sys.exit(Parent(specs, LIMITS, Notifier.from_environment(os.environ), time.monotonic, reload).run())
