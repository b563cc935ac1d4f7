"""A real Prometheus (Debian's package) that scrapes daemons, and answers from its own store.

`TargetPrometheus` knows its targets and no rules. `ShippedPrometheus` has the configuration and the rules that ship,
all times divided by a factor, and sends alerts to an Alertmanager. `PanelPrometheus` has the rules at their own times,
and scrapes once a second, so that a run of a minute gives Grafana lines and not dots.
"""

import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.harness.alertmanager import Alertmanager
from tests.harness.http import free_port
from tests.harness.paths import ROOT
from tests.harness.processes import Program
from txninsightd.tools.stack.machine import HOST
from txninsightd.tools.stack.time_scale import scale_prometheus, scale_rules

SHIPPED = ROOT / "monitoring" / "prometheus"
RULES = SHIPPED / "rules"
SCRAPE_EVERY_S = 1


class Series(NamedTuple):
    """One series of an answer: (moment, value), oldest first; an instant query gives one value."""

    labels: dict[str, str]
    samples: list[tuple[float, float]]

    @property
    def name(self) -> str:
        """The metric; empty for what a function made."""
        return self.labels.get("__name__", "")

    @property
    def value(self) -> float:
        """The latest value."""
        return self.samples[-1][1]


class Prometheus(Program):
    """Keeps its config and its data in a folder of its own within `directory`. Subclasses write the config."""

    def __init__(self, name: str, directory: Path, port: int | None = None) -> None:
        super().__init__(name, directory, port or free_port())
        self.home = directory / name
        self.home.mkdir(parents=True)

    @property
    def command(self) -> list[str]:
        return [
            "prometheus",
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.home / 'data'}",
            f"--web.listen-address={HOST}:{self.port}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]

    @property
    def config(self) -> Path:
        """The config file."""
        return self.home / "prometheus.yml"

    def write_config(self, document: dict[str, Any]) -> None:
        """Write the config file. A running Prometheus needs `reload` to know."""
        self.config.write_text(yaml.safe_dump(document, sort_keys=False))

    def reload(self) -> None:
        """Have it read its config again."""
        self.send(signal.SIGHUP)

    def data(self, route: str, **parameters: Any) -> Any:
        """The data that one of its routes returns. Raises Refused with its reason."""
        return self.ask(f"/api/v1/{route}", **parameters)["data"]

    def query(self, expression: str, at: float | None = None) -> list[Series]:
        """What an instant query returns; with a range selector, the raw samples as they were scraped."""
        moment = {} if at is None else {"time": f"{at:.3f}"}
        rows = self.data("query", query=expression, **moment)["result"]
        return [Series(row["metric"], _numbers(row.get("values") or [row["value"]])) for row in rows]

    def range(self, expression: str, start: float, end: float) -> list[Series]:
        """What a panel gets that draws lines."""
        rows = self.data("query_range", query=expression, start=start, end=end, step=SCRAPE_EVERY_S)["result"]
        return [Series(row["metric"], _numbers(row["values"])) for row in rows]


class TargetPrometheus(Prometheus):
    """It scrapes these ports every `every_s` seconds, and waits as long for an answer."""

    def __init__(self, directory: Path, *target_ports: int, every_s: int = SCRAPE_EVERY_S) -> None:
        super().__init__("prometheus", directory)
        period = dict.fromkeys(("scrape_interval", "scrape_timeout"), f"{every_s}s")
        scrape = {
            "job_name": "txninsight",
            "static_configs": [{"targets": [f"{HOST}:{port}" for port in target_ports]}],
        }
        self.write_config({"global": period, "scrape_configs": [scrape]})

    def await_scraped(self, metric: str) -> None:
        """Wait until this metric was scraped."""
        self.await_that(lambda: self.query(metric), f"{metric} is scraped")


class ShippedPrometheus(Prometheus):
    """The shipped files with all times divided by `factor`; `cluster` is the external label."""

    def __init__(self, cluster: str, directory: Path, port: int, alertmanager: Alertmanager, factor: float) -> None:
        super().__init__(f"prometheus-{cluster}", directory, port)
        self._cluster = cluster
        self._factor = factor
        self._alertmanager = f"{HOST}:{alertmanager.port}"
        (self.home / "rules").mkdir()
        for file in RULES.glob("*.yml"):
            scaled = scale_rules(yaml.safe_load(file.read_text()), factor)
            (self.home / "rules" / file.name).write_text(yaml.safe_dump(scaled, sort_keys=False))
        self.target([])

    def target(self, ports: Iterable[int]) -> None:
        """Write the config with these targets."""
        document = scale_prometheus(_shipped(), self._factor)
        document["global"]["external_labels"]["cluster"] = self._cluster
        document["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [self._alertmanager]}]}]
        (job,) = document["scrape_configs"]
        job["static_configs"] = [{"targets": [f"{HOST}:{port}" for port in ports]}]
        self.write_config(document)

    def states(self, alert: str, instance: str) -> set[str]:
        """pending, firing: how an alert of a daemon stands."""
        found = self.query(f'ALERTS{{alertname="{alert}",instance="{instance}"}}')
        return {series.labels["alertstate"] for series in found}


class PanelPrometheus(Prometheus):
    """The shipped rules over one scrape a second. Half of the targets get the label cluster, as with two clusters."""

    def __init__(self, directory: Path, ports: Iterable[int]) -> None:
        super().__init__("prometheus", directory)
        document = _shipped()
        document["global"] |= dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "1s")
        document["rule_files"] = [str(SHIPPED / files) for files in document["rule_files"]]
        del document["alerting"]
        (job,) = document["scrape_configs"]
        targets = [f"{HOST}:{port}" for port in ports]
        half = len(targets) // 2
        main = {"targets": targets[:half], "labels": {"cluster": "main"}}
        job["static_configs"] = [main, {"targets": targets[half:]}]
        self.write_config(document)


def _shipped() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    return document


def _numbers(values: list[tuple[float, str]]) -> list[tuple[float, float]]:
    return [(moment, float(value)) for moment, value in values]
