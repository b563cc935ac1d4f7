"""A real Prometheus with the shipped configuration and rules, and Grafana's questions to it.

Of prometheus.yml only the intervals, the targets and the Alertmanagers are changed: one scrape a second, so that a run
of a minute gives lines and not dots. Half of the targets get the label cluster, as where several clusters meet.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.harness.programs import AnyPrometheus
from txninsightd.tools.stack import machine

SHIPPED = Path(__file__).parents[2] / "monitoring" / "prometheus"
SCRAPE_EVERY_S = 1
RATE_INTERVAL_S = 15
"""Grafana's $__rate_interval is at least four scrape intervals; here more, since a busy machine misses some scrapes."""


class Series(NamedTuple):
    """One series of an answer: (moment, value), oldest first."""

    labels: dict[str, str]
    samples: list[tuple[float, float]]


class Prometheus(AnyPrometheus):
    """It scrapes `targets`, host:port each, and keeps exemplars."""

    def __init__(self, directory: Path, targets: Iterable[str]) -> None:
        super().__init__("prometheus", directory, machine.free_ports(1)[0])
        config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
        self.config.write_text(yaml.safe_dump(_adapted(config, list(targets))))

    def range(self, expression: str, start: float, end: float) -> list[Series]:
        """What a panel gets that draws lines."""
        result = self.tell("query_range", query=expression, start=start, end=end, step=SCRAPE_EVERY_S)["result"]
        return [Series(row["metric"], _numbers(row["values"])) for row in result]

    def instant(self, expression: str) -> list[Series]:
        """What a panel gets that shows how it is now."""
        result = self.tell("query", query=expression)["result"]
        return [Series(row["metric"], _numbers([row["value"]])) for row in result]

    def tell(self, what: str, **parameters: Any) -> Any:
        """The data that one of its routes gives; Refused with its reason."""
        return self.ask(f"/api/v1/{what}", **parameters)["data"]


def substituted(expression: str, range_s: float, **variables: str) -> str:
    """An expression as Grafana sends it; a variable that is not given is `All`."""
    values = {
        "__rate_interval": f"{RATE_INTERVAL_S}s",
        "__range": f"{max(1, round(range_s))}s",
        **dict.fromkeys(("cluster", "instance", "txn_type"), ".*"),
        **variables,
    }
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], expression)


def one_of(*values: str) -> str:
    """Several values of a variable as Grafana writes them, for a regular expression within a quoted string."""
    return f"({'|'.join(re.escape(value) for value in values)})".replace("\\", "\\\\")


def _adapted(config: dict[str, Any], targets: list[str]) -> dict[str, Any]:
    config["global"] |= dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "1s")
    config["rule_files"] = [str(SHIPPED / files) for files in config["rule_files"]]
    del config["alerting"]
    (job,) = config["scrape_configs"]
    half = len(targets) // 2
    job["static_configs"] = [{"targets": targets[:half], "labels": {"cluster": "main"}}, {"targets": targets[half:]}]
    return config


def _numbers(values: list[tuple[float, str]]) -> list[tuple[float, float]]:
    return [(moment, float(value)) for moment, value in values]
