"""What the dashboards that ship say: their panels, queries and variables, read from the JSON and from nothing else.

Besides, what else is compared with them: the rules, and the names by which a metric can be asked for.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import yaml

from tests.harness.paths import ROOT
from tests.harness.prometheus import RULES
from txninsightd.expose.catalogue import Definition, MetricType

GRAFANA = ROOT / "monitoring" / "grafana"

METRIC = re.compile(r"(?<![\w:/.-])(?:\w+:)?txninsight_[a-z0-9_]*(?::\w+)?")
_LABEL = re.compile(r"\$\{__(?:field\.labels|data\.fields)\.(\w+)(:percentencode)?\}")
SUFFIXES = {
    MetricType.COUNTER: ("",),
    MetricType.GAUGE: ("",),
    MetricType.HISTOGRAM: ("_bucket", "_sum", "_count"),
    MetricType.GAUGE_HISTOGRAM: ("_bucket", "_gcount", "_gsum"),
}

Json = dict[str, Any]


class Panel(NamedTuple):
    """One panel, rows left out."""

    dashboard: str
    json: Json

    @property
    def name(self) -> str:
        """Dashboard and title, for messages."""
        return f"{self.dashboard}: {self.json['title']}"

    def texts(self) -> list[str]:
        """All strings in it, at any depth."""
        return list(_strings(self.json))


class Target(NamedTuple):
    """One query of a panel."""

    panel: Panel
    json: Json

    @property
    def name(self) -> str:
        """Dashboard, title and letter."""
        return f"{self.panel.name}/{self.json['refId']}"

    @property
    def expr(self) -> str:
        """The expression, variables included."""
        return str(self.json["expr"])


def dashboards() -> dict[str, Json]:
    """By file name, what is in the folder."""
    return {path.name: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}


def panels() -> list[Panel]:
    """The panels of all dashboards, without rows."""
    return [Panel(d["uid"], p) for d in dashboards().values() for p in d["panels"] if p["type"] != "row"]


def targets() -> list[Target]:
    """All queries of all panels."""
    return [Target(panel, target) for panel in panels() for target in panel.json["targets"]]


def variables(dashboard: Json) -> dict[str, Json]:
    """The variables by name."""
    return {v["name"]: v for v in dashboard["templating"]["list"]}


def annotations(dashboard: Json) -> list[Json]:
    """What is asked of Prometheus beside the panels."""
    return [a for a in dashboard["annotations"]["list"] if "expr" in a]


def links_of(target: Target, labels: Mapping[str, str]) -> list[str]:
    """The addresses behind the values of one series of a query; an override may replace those of the panel."""
    config = target.panel.json["fieldConfig"]
    links = config["defaults"].get("links", [])
    for override in config["overrides"]:
        if _matches(override["matcher"], target, labels):
            links = next((each["value"] for each in override["properties"] if each["id"] == "links"), links)
    return [link["url"] for link in links]


def labels_in(url: str) -> set[str]:
    """The labels that a link names."""
    return {name for name, _ in _LABEL.findall(url)}


def resolved(url: str, labels: Mapping[str, str]) -> str:
    """A link as Grafana makes it for a series with these labels; what the series lacks stays as it is written."""

    def value(match: re.Match[str]) -> str:
        found = labels.get(match[1], match[0])
        return quote(found, safe="") if match[2] and match[1] in labels else found

    return _LABEL.sub(value, url)


def rules() -> list[Json]:
    """Every recording and alerting rule."""
    files = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def series_of(definition: Definition) -> set[str]:
    """The names by which a metric can be asked for."""
    return {definition.name + suffix for suffix in SUFFIXES[definition.type]}


def metrics_in(expression: str) -> set[str]:
    """The names of our metrics, and of series that our rules record."""
    return set(METRIC.findall(expression))


def _matches(matcher: dict[str, str], target: Target, labels: Mapping[str, str]) -> bool:
    """Whether an override is meant for this series: by its legend, or in a table by its column."""
    column = f"Value #{target.json['refId']}" if len(target.panel.json["targets"]) > 1 else "Value"
    legend = re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), target.json["legendFormat"])
    name = column if target.json["format"] == "table" else legend
    if matcher["id"] == "byRegexp":
        return re.search(matcher["options"].strip("/"), name) is not None
    return matcher["options"] == name


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for each in value.values():
                yield from _strings(each)
        case list():
            for each in value:
                yield from _strings(each)
