"""The text of `/metrics`, rendered in pieces. A scrape never blocks the aggregator for long.

prometheus_client writes both formats. It gets one family at a time, or one slice of a large family, and the event loop
gets a turn after each piece. So each family is a snapshot (see `collector.py`), and a whole scrape is not.

One rendering is in work at a time, and all who ask for its format meanwhile get its result. In a crowd there is a pause
between renderings (pacing.py).
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from txninsightd.expose.loop_yield import LoopYield
from txninsightd.expose.pacing import USUAL_PATIENCE_S, Pacing
from txninsightd.expose.turns import Busy

MOST_SAMPLES_AT_ONCE = 500
GZIP_LEVEL = 1
MOST_WAITING = 90
"""By default."""


class TextFormat(NamedTuple):
    """An exposition format. `end` closes the whole text; prometheus_client ends every piece with it."""

    content_type: str
    write: Callable[[Collector], bytes]
    end: bytes


_write_openmetrics: Callable[[Collector], bytes] = openmetrics.generate_latest

PLAIN = TextFormat("text/plain; version=0.0.4; charset=utf-8", generate_latest, b"")
OPENMETRICS = TextFormat("application/openmetrics-text; version=1.0.0; charset=utf-8", _write_openmetrics, b"# EOF\n")


class _Rendering:
    """One that is in work. `answers`: how many clients have asked for it; `begin_by`: for the least patient of them."""

    def __init__(self, task: "asyncio.Task[bytes]") -> None:
        self.task = task
        self.answers = 0
        self.begin_by = float("inf")


class Renderings:
    """Renders one registry for many clients. `clients`: how many ask for it; `most`: so many may wait."""

    def __init__(
        self,
        registry: CollectorRegistry,
        clients: Callable[[], int] = lambda: 0,
        most: Callable[[], int] = lambda: MOST_WAITING,
    ) -> None:
        self._registry = registry
        self._most = most
        self._waiting = 0
        self._pacing = Pacing(clients)
        self._in_work: dict[tuple[TextFormat, bool], _Rendering] = {}
        self._one_at_a_time = asyncio.Lock()

    async def body(self, form: TextFormat, gzip: bool, patience_s: float = USUAL_PATIENCE_S) -> bytes:
        """All metrics; those of a rendering that is in work already, if there is one of this kind.

        `patience_s`: how long the client waits for an answer. Raises Busy.
        """
        if self._waiting >= self._most():
            raise Busy
        self._waiting += 1
        try:
            return await self._shared(form, gzip, patience_s)
        finally:
            self._waiting -= 1

    async def _shared(self, form: TextFormat, gzip: bool, patience_s: float) -> bytes:
        kind = (form, gzip)
        rendering = self._in_work.get(kind)
        if rendering is None:
            rendering = self._in_work[kind] = _Rendering(asyncio.create_task(self._render(form, gzip)))
            rendering.task.add_done_callback(lambda task: self._ended(kind, task))
        rendering.answers += 1
        rendering.begin_by = min(rendering.begin_by, self._pacing.begin_by(patience_s))
        try:
            # A client that goes must not take the rendering from the others.
            return await asyncio.shield(rendering.task)
        except asyncio.CancelledError:
            rendering.answers -= 1
            raise

    def _ended(self, kind: tuple[TextFormat, bool], task: "asyncio.Task[bytes]") -> None:
        del self._in_work[kind]
        # If all who have asked are gone, nobody else looks at a failure, and asyncio would log it.
        if not task.cancelled():
            task.exception()

    async def _render(self, form: TextFormat, gzip: bool) -> bytes:
        rendering, body = self._in_work[form, gzip], b""
        await self._pacing.wait(lambda: rendering.begin_by)
        now = asyncio.get_running_loop().time
        could_begin_at = now()
        async with self._one_at_a_time:
            loop_yield = LoopYield()
            try:
                body = await render(self._registry, form, gzip, loop_yield)
            finally:
                self._pacing.note(loop_yield.busy_s, now() - could_begin_at, rendering.answers, len(body))
            return body


class _One(Collector):
    """A collector of one family."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return [self._metric]


async def render(registry: CollectorRegistry, form: TextFormat, gzip: bool, loop_yield: LoopYield) -> bytes:
    """All metrics of the registry, as one body; gzip-compressed if asked."""
    if not gzip:
        return b"".join([piece async for piece in _pieces(registry, form, loop_yield)])
    # zlib writes a gzip header when wbits is 16 higher.
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    packed = [compressor.compress(piece) async for piece in _pieces(registry, form, loop_yield)]
    return b"".join((*packed, compressor.flush()))


async def _pieces(registry: CollectorRegistry, form: TextFormat, loop_yield: LoopYield) -> AsyncIterator[bytes]:
    for family in registry.collect():
        for i, part in enumerate(_slices(family, form)):
            text = form.write(_One(part)).removesuffix(form.end)
            yield text if i == 0 else _without_heading(text)
            await loop_yield.yield_if_due()
    yield form.end


def _slices(family: Metric, form: TextFormat) -> Iterator[Metric]:
    """Split a large family. A gauge histogram in the plain format stays whole: its text has headings in the middle."""
    whole = form is PLAIN and family.type == "gaugehistogram"
    if whole or len(family.samples) <= MOST_SAMPLES_AT_ONCE:
        yield family
        return
    for start in range(0, len(family.samples), MOST_SAMPLES_AT_ONCE):
        part = Metric(family.name, family.documentation, family.type, family.unit)
        part.samples = family.samples[start : start + MOST_SAMPLES_AT_ONCE]
        yield part


def _without_heading(text: bytes) -> bytes:
    # Each slice repeats HELP and TYPE, which may occur only once. No sample begins with "# ".
    while text.startswith(b"# "):
        text = text.partition(b"\n")[2]
    return text
