"""Assembles panels into a dashboard: rows and positions, variables, links to the other dashboards, annotations.

All dashboards have the same variables, so a link between them keeps the selection. A dashboard is a list of rows. A row
has a title and lines. A line has panels of one height next to each other, 24 columns wide in all.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from monitoring.grafana.parts import DAEMON, DAEMON_ITSELF, DATASOURCE, KAFKA, OVERVIEW, TYPE, I, Json

SCHEMA_VERSION = 37
TAG = "txninsight"
WIDTH = 24

TITLES = {
    OVERVIEW: "Transactions: overview",
    TYPE: "Transactions: one type",
    KAFKA: "Transactions: Kafka view",
    DAEMON_ITSELF: "Transactions: the daemon itself",
}


class Line(NamedTuple):
    """Panels next to each other, each with its width."""

    height: int
    panels: Sequence[tuple[int, Json]]


class Row(NamedTuple):
    """A titled part of a dashboard."""

    title: str
    lines: Sequence[Line]


def assembled(uid: str, description: str, rows: Iterable[Row]) -> Json:
    """A whole dashboard in the form of Grafana's JSON."""
    return {
        "uid": uid,
        "title": TITLES[uid],
        "description": description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "refresh": "30s",
        "style": "dark",
        "timezone": "",
        "weekStart": "",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "annotations": {"list": _annotations()},
        "links": [_link(other) for other in TITLES if other != uid],
        "templating": {"list": _variables()},
        "panels": _placed(rows),
    }


def _placed(rows: Iterable[Row]) -> list[Json]:
    """All panels and rows with their ids and positions."""
    placed: list[Json] = []
    y = 0
    for row in rows:
        placed.append(_row(row.title, len(placed) + 1, y))
        y += 1
        for line in row.lines:
            x = 0
            for width, panel in line.panels:
                place = {"x": x, "y": y, "w": width, "h": line.height}
                placed.append({"id": len(placed) + 1, "gridPos": place, **panel})
                x += width
            y += line.height
    return placed


def _row(title: str, id_: int, y: int) -> Json:
    place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
    return {"id": id_, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _link(uid: str) -> Json:
    return {
        "type": "link",
        "title": TITLES[uid],
        "url": f"/d/{uid}",
        "icon": "dashboard",
        "tooltip": "",
        "tags": [],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }


# --- Variables --------------------------------------------------------------------------------------------------------


def _variables() -> list[Json]:
    return [
        _datasource_variable(),
        _label_variable("cluster", "Cluster", "txninsight_build_info"),
        _label_variable("instance", "Daemon", 'txninsight_build_info{cluster=~"$cluster"}'),
        _label_variable("txn_type", "Transaction type", f"txninsight_transactions_opened_total{{{I}}}"),
    ]


def _datasource_variable() -> Json:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "regex": "",
        "refresh": 1,
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "current": {},
        "skipUrlSync": False,
    }


def _label_variable(name: str, label: str, series: str) -> Json:
    """All values of a label; `All` also matches an absent label."""
    definition = f"label_values({series}, {name})"
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "definition": definition,
        "query": {"query": definition, "refId": f"variable-{name}"},
        "regex": "",
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "options": [],
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "skipUrlSync": False,
    }


# --- Annotations ------------------------------------------------------------------------------------------------------


def _annotations() -> list[Json]:
    return [
        {
            "builtIn": 1,
            "datasource": {"type": "grafana", "uid": "-- Grafana --"},
            "enable": True,
            "hide": True,
            "iconColor": "rgba(0, 211, 255, 1)",
            "name": "Annotations & Alerts",
            "type": "dashboard",
        },
        _annotation(
            "Alerts",
            f'ALERTS{{alertname=~"Txninsight.*",alertstate="firing",{I}}}',
            "red",
            "{{alertname}}",
            "{{severity}} {{txn_type}} {{cause}} {{instance}}",
        ),
        _annotation(
            "Restarts",
            f"sum by ({DAEMON}, child) (increase(txninsight_child_restarts_total{{{I}}}[1m])) > 0",
            "orange",
            "{{child}} was restarted",
            "{{instance}}",
        ),
    ]


def _annotation(name: str, expr: str, color: str, title: str, text: str) -> Json:
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "expr": expr,
        "titleFormat": title,
        "textFormat": text,
        "tagKeys": "",
        "step": "",
        "useValueForTime": False,
    }
