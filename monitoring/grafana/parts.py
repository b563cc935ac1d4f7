"""The parts of panels: queries, units, thresholds, links, and the panel types of Grafana 9.3.

A panel is a dict in the form of Grafana's JSON, without id and position, which `layout.py` adds. Every panel has a
title, a description for operators, a unit, and links. Panels of one type share one function; `Look` has the options of
a single panel.

In expressions, `I` selects by the variables cluster and instance, and `T` also by txn_type. cluster is an external
label. It exists where several clusters come together, and not in the Prometheus next to the daemon. A matcher with the
value `.*` also matches an absent label, so the same expressions work in both.
"""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

Json = dict[str, Any]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
PLUGIN_VERSION = "9.3.0"

I = 'cluster=~"$cluster",instance=~"$instance"'  # noqa: E741
T = f'{I},txn_type=~"$txn_type"'
DAEMON = "cluster, instance"
"""The labels that identify a daemon, for `by (...)`."""

GREEN, YELLOW, ORANGE, RED, BLUE, NEUTRAL = "green", "yellow", "orange", "red", "blue", "text"


class Query(NamedTuple):
    """An expression and the legend of its series; `format` is time_series, table or heatmap."""

    expr: str
    legend: str
    instant: bool = False
    format: str = "time_series"
    exemplars: bool = False


class Limit(NamedTuple):
    """Values from `value` up have this colour."""

    value: float
    color: str


class Look(NamedTuple):
    """Options of a panel; overrides and mappings are in the form of Grafana's JSON."""

    base: str = GREEN
    limits: Sequence[Limit] = ()
    overrides: Sequence[Json] = ()
    mappings: Sequence[Json] = ()
    data_links: Sequence[Json] = ()
    stacked: bool = False
    bars: bool = False
    minimum: float | None = 0
    maximum: float | None = None
    no_value: str = ""


PLAIN = Look()
LATEST: Json = {"calcs": ["lastNotNull"], "fields": "", "values": False}

# --- Links ------------------------------------------------------------------------------------------------------------

KEPT = "${__url_time_range}&${datasource:queryparam}&${cluster:queryparam}&${instance:queryparam}"


def to_dashboard(title: str, uid: str) -> Json:
    """A panel's link to a dashboard, with the same time range and variables."""
    return {"title": title, "url": f"/d/{uid}?${{__url_time_range}}&${{__all_variables}}", "targetBlank": False}


def to_type(label: str) -> Json:
    """A value's link to its transaction type; `label` is the type's place (label_of or cell_of)."""
    return {"title": "This type", "url": f"/d/{TYPE}?{KEPT}&var-txn_type={label}", "targetBlank": False}


def to_api(title: str, host: str, path: str, **filters: str) -> Json:
    """A value's link to the API of its daemon."""
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    return {"title": title, "url": f"http://{host}{path}{'?' if query else ''}{query}", "targetBlank": True}


def to_transactions(title: str, **filters: str) -> Json:
    """A value's link to the daemon's list of these transactions; `filters` are the API's parameters."""
    return to_api(title, host_of_label(), TRANSACTIONS, **filters, limit="1000")


def label_of(name: str) -> str:
    """A label of the series, for a URL."""
    return f"${{__field.labels.{name}:percentencode}}"


def cell_of(name: str) -> str:
    """Another cell of a table's row, for a URL."""
    return f"${{__data.fields.{name}:percentencode}}"


def host_of_label() -> str:
    """The host and port of a series' daemon."""
    return "${__field.labels.instance}"


def to_readiness() -> Json:
    """A value's link to its daemon's readiness answer."""
    return to_api("What is missing", host_of_label(), "/readyz")


OVERVIEW, TYPE, KAFKA, DAEMON_ITSELF = "txninsight-overview", "txninsight-type", "txninsight-kafka", "txninsight-daemon"
TRANSACTIONS = "/api/v1/transactions"

# --- Panels -----------------------------------------------------------------------------------------------------------


def panel(
    kind: str, title: str, description: str, queries: Sequence[Query], links: Sequence[Json], **parts: Any
) -> Json:
    """The common parts of all panels."""
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "pluginVersion": PLUGIN_VERSION,
        "links": list(links),
        "targets": [_target(ascii_uppercase[i], query) for i, query in enumerate(queries)],
        **parts,
    }


def time_series(
    title: str, description: str, unit: str, queries: Sequence[Query], links: Sequence[Json] = (), look: Look = PLAIN
) -> Json:
    """Lines over time; thresholds are drawn as lines."""
    custom = {
        "drawStyle": "bars" if look.bars else "line",
        "lineWidth": 1,
        "fillOpacity": 60 if look.bars else 20 if look.stacked else 5,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if look.stacked or look.bars else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if look.limits else "off"},
    }
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    config = _field_config(unit, look, custom=custom, color={"mode": "palette-classic"})
    return panel("timeseries", title, description, queries, links, fieldConfig=config, options=options)


def stat(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    links: Sequence[Json],
    look: Look = PLAIN,
    text: str = "auto",
) -> Json:
    """Large current values; `text` is auto, or name to show the name."""
    options = {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": LATEST,
        "textMode": text,
    }
    config = _field_config(unit, look)
    return panel("stat", title, description, queries, links, fieldConfig=config, options=options)


def table(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    links: Sequence[Json],
    look: Look = PLAIN,
    sort_by: str = "",
) -> Json:
    """One row for each set of labels, one column for each query."""
    transformations = [
        {"id": "filterFieldsByName", "options": {"include": {"pattern": "^(?!Time).*$"}}},
        {"id": "merge", "options": {}},
    ]
    options = {"showHeader": True, "sortBy": [{"displayName": sort_by, "desc": True}] if sort_by else []}
    config = _field_config(unit, look, custom={"align": "auto", "displayMode": "auto", "filterable": True})
    return panel(
        "table",
        title,
        description,
        queries,
        links,
        fieldConfig=config,
        options=options,
        transformations=transformations,
    )


def heatmap(title: str, description: str, unit: str, query: Query, links: Sequence[Json]) -> Json:
    """A Prometheus histogram over time; exemplars are dots that link to a transaction."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": "short"},
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "fill": "dark-orange",
            "scale": "exponential",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"show": True, "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    config: Json = {
        "defaults": {
            "unit": unit,
            "thresholds": _thresholds(PLAIN),
            "custom": {"scaleDistribution": {"type": "linear"}},
        },
        "overrides": [],
    }
    return panel("heatmap", title, description, [query], links, fieldConfig=config, options=options)


def bar_gauge(
    title: str, description: str, unit: str, queries: Sequence[Query], links: Sequence[Json], look: Look = PLAIN
) -> Json:
    """One bar for each series, by its latest value."""
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "reduceOptions": LATEST,
        "showUnfilled": True,
    }
    config = _field_config(unit, look)
    return panel("bargauge", title, description, queries, links, fieldConfig=config, options=options)


def state_timeline(
    title: str, description: str, queries: Sequence[Query], links: Sequence[Json], look: Look = PLAIN
) -> Json:
    """The periods of series that are 0 or 1."""
    options = {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.9,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    config = _field_config("bool_yes_no", look, custom={"fillOpacity": 70, "lineWidth": 0})
    return panel("state-timeline", title, description, queries, links, fieldConfig=config, options=options)


# --- Parts of panels --------------------------------------------------------------------------------------------------


def words(zero: tuple[str, str], one: tuple[str, str]) -> Json:
    """A mapping of 0 and 1 to a text and a colour each."""
    return {
        "type": "value",
        "options": {
            str(value): {"text": text, "color": color, "index": value}
            for value, (text, color) in enumerate((zero, one))
        },
    }


def override(matcher: str, wanted: str, **properties: Any) -> Json:
    """Properties for the fields of a matcher; `__` in a name means a dot."""
    return {
        "matcher": {"id": matcher, "options": wanted},
        "properties": [{"id": name.replace("__", "."), "value": value} for name, value in properties.items()],
    }


def column(ref: str, name: str, unit: str, look: Look = PLAIN) -> Json:
    """Name and format of one query's values in a table; `ref` is empty if the table has one query."""
    color = {"custom__displayMode": "color-text"} if look.limits else {}
    return override(
        "byName",
        f"Value #{ref}" if ref else "Value",
        displayName=name,
        unit=unit,
        thresholds=_thresholds(look),
        links=list(look.data_links),
        noValue=look.no_value,
        **color,
    )


def dashed(pattern: str) -> Json:
    """A target line: dashed, without a fill and without the links of the other series."""
    line = {"fill": "dash", "dash": [8, 8]}
    return override("byRegexp", pattern, custom__lineStyle=line, custom__fillOpacity=0, links=[])


def _target(ref: str, query: Query) -> Json:
    return {
        "refId": ref,
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend,
        "format": query.format,
        "instant": query.instant,
        "range": not query.instant,
        "exemplar": query.exemplars,
    }


def _field_config(unit: str, look: Look, **more: Any) -> Json:
    defaults = {
        "unit": unit,
        "min": look.minimum,
        "max": look.maximum,
        "noValue": look.no_value or None,
        "color": {"mode": "thresholds"},
        "thresholds": _thresholds(look),
        "mappings": list(look.mappings),
        "links": list(look.data_links),
        **more,
    }
    return {
        "defaults": {name: value for name, value in defaults.items() if value is not None},
        "overrides": list(look.overrides),
    }


def _thresholds(look: Look) -> Json:
    steps: list[Json] = [{"color": look.base, "value": None}]
    return {"mode": "absolute", "steps": [*steps, *(limit._asdict() for limit in look.limits)]}
