"""A real Prometheus (Debian's package) that scrapes one target once a second, and answers from its own store.

What a range selector gives are the raw samples as they were scraped; nothing is interpolated there.
"""

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import yaml

from tests.harness.daemon import free_port

HANG_GUARD_S = 60.0
LOOK_EVERY_S = 0.1
SCRAPE_EVERY_S = 1

LabelSet = tuple[tuple[str, str], ...]
NOT_OURS = ("instance", "job")


class Series(NamedTuple):
    """One time series: (moment, value) of each scrape."""

    name: str
    labels: LabelSet
    samples: list[tuple[float, float]]


class Prometheus:
    """Keeps its data in `directory`; scrapes 127.0.0.1:`target_port`/metrics. It dies with the thread that began it."""

    def __init__(self, directory: Path, target_port: int) -> None:
        self._directory = directory
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        scrape = {
            "job_name": "txninsight",
            "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}],
        }
        period = {"scrape_interval": f"{SCRAPE_EVERY_S}s", "scrape_timeout": f"{SCRAPE_EVERY_S}s"}
        directory.mkdir(parents=True, exist_ok=True)
        self._config = directory / "prometheus.yaml"
        self._config.write_text(yaml.safe_dump({"global": period, "scrape_configs": [scrape]}))

    def __enter__(self) -> Self:
        with (self._directory / "prometheus.out").open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "--"),
                    "prometheus",
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self._directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(HANG_GUARD_S)

    def await_scraped(self, metric: str) -> None:
        """Wait until this metric has been seen."""
        deadline = time.monotonic() + HANG_GUARD_S
        while not self._has(metric):
            assert self._process is not None
            assert self._process.poll() is None, self._output()
            assert time.monotonic() < deadline, f"never scraped: {metric}: {self._output()}"
            time.sleep(LOOK_EVERY_S)

    def query(self, expression: str, at: float | None = None) -> list[Series]:
        """What an instant query gives; with a range selector, the raw samples."""
        asked: Mapping[str, str] = {"query": expression, **({"time": f"{at:.3f}"} if at is not None else {})}
        body = urllib.parse.urlencode(asked).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/query", body, timeout=120) as answer:
            rows = json.load(answer)["data"]["result"]
        return [_series(row["metric"], row.get("values") or [row["value"]]) for row in rows]

    def _has(self, metric: str) -> bool:
        try:
            return bool(self.query(metric))
        except OSError:
            return False

    def _output(self) -> str:
        return (self._directory / "prometheus.out").read_text()[-2000:]


def _series(metric: Mapping[str, str], values: list[tuple[float, str]]) -> Series:
    labels = tuple(sorted((k, v) for k, v in metric.items() if k != "__name__" and k not in NOT_OURS))
    return Series(metric.get("__name__", ""), labels, [(moment, float(value)) for moment, value in values])
