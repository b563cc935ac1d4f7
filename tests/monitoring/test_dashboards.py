"""The dashboards by their structure: what Grafana 9.3 needs, what an operator may expect of each panel, and no metric
that does not exist. Whether the queries give something is held in test_queries.py.
"""

import re
from collections import Counter
from itertools import combinations
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from monitoring.grafana.__main__ import rendered
from tests.harness.dashboards import (
    GRAFANA,
    Panel,
    Target,
    annotations,
    dashboards,
    labels_in,
    links_of,
    metrics_in,
    panels,
    resolved,
    rules,
    series_of,
    targets,
    variables,
)
from txninsightd.expose.catalogue import CATALOGUE

OF_GRAFANA_9_3 = {"timeseries", "stat", "table", "heatmap", "bargauge", "state-timeline"}
KNOWN_UNITS = {"short", "none", "s", "bytes", "percentunit", "ops", "bool_yes_no"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
URL = re.compile(r"/d/([^?/]+)|http://(\$\{__(?:field\.labels|data\.fields)\.instance\})(/api/v1/\w+|/readyz)")

BOARDS = list(dashboards().values())
PANELS, TARGETS = panels(), targets()
UIDS = [board["uid"] for board in BOARDS]


def expressions() -> list[str]:
    """What dashboards ask: panels, variables, annotations."""
    asked = [target.expr for target in TARGETS]
    for board in BOARDS:
        asked += [v["definition"] for v in variables(board).values() if v["type"] == "query"]
        asked += [a["expr"] for a in annotations(board)]
    return asked


def test_what_is_checked_in_is_what_the_builder_writes() -> None:
    shipped = {path.name: path.read_text() for path in (GRAFANA / "dashboards").iterdir()}
    assert shipped == rendered()


def test_there_are_four_and_each_is_found_by_its_uid() -> None:
    assert len(BOARDS) == 4
    assert len(set(UIDS)) == len(UIDS)
    assert len({board["title"] for board in BOARDS}) == len(BOARDS)
    for uid in UIDS:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", uid)


@pytest.mark.parametrize("board", BOARDS, ids=UIDS)
class TestDashboard:
    def test_grafana_9_3_can_load_it(self, board: dict[str, Any]) -> None:
        assert board["schemaVersion"] == 37
        assert {p["type"] for p in board["panels"]} <= OF_GRAFANA_9_3 | {"row"}
        assert "__inputs" not in board
        assert board.get("id") is None

    def test_no_panel_lies_over_another_or_outside(self, board: dict[str, Any]) -> None:
        cells = {p["id"]: _cells(p["gridPos"]) for p in board["panels"]}
        assert len(cells) == len(board["panels"]), "ids are unique"
        for (one, its), (other, others) in combinations(cells.items(), 2):
            assert not its & others, (one, other)
        assert all(0 <= x < 24 and y >= 0 for its in cells.values() for x, y in its)

    def test_variables(self, board: dict[str, Any]) -> None:
        found = variables(board)
        assert list(found) == ["datasource", "cluster", "instance", "txn_type"]
        assert found["datasource"]["type"] == "datasource"
        for name in ("cluster", "instance", "txn_type"):
            assert found[name]["datasource"] == DATASOURCE
            assert found[name]["allValue"] == ".*", "holds for an absent label too"
            assert found[name]["includeAll"]
            assert found[name]["multi"]
            assert found[name]["query"]["query"] == found[name]["definition"]

    def test_every_data_source_is_the_variable(self, board: dict[str, Any]) -> None:
        built_in = {"type": "grafana", "uid": "-- Grafana --"}
        found = list(_values_of("datasource", board))
        assert found
        assert all(source in (DATASOURCE, built_in) for source in found)
        assert all(p["datasource"] == DATASOURCE for p in board["panels"] if p["type"] != "row")

    def test_it_links_to_all_others_and_keeps_what_was_chosen(self, board: dict[str, Any]) -> None:
        assert {link["url"] for link in board["links"]} == {f"/d/{uid}" for uid in UIDS if uid != board["uid"]}
        assert all(link["includeVars"] and link["keepTime"] for link in board["links"])

    def test_alerts_and_restarts_are_marked(self, board: dict[str, Any]) -> None:
        asked = [a["expr"] for a in annotations(board)]
        assert [expr.startswith("ALERTS{") for expr in asked] == [True, False]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.name)
class TestPanel:
    def test_it_is_explained(self, panel: Panel) -> None:
        assert panel.json["title"]
        assert panel.json["description"].endswith(".")

    def test_every_value_has_a_unit(self, panel: Panel) -> None:
        units = list(_units(panel.json["fieldConfig"]))
        assert panel.json["fieldConfig"]["defaults"]["unit"]
        assert set(units) <= KNOWN_UNITS

    def test_it_has_thresholds_that_rise(self, panel: Panel) -> None:
        for thresholds in _thresholds(panel.json["fieldConfig"]):
            first, *others = [step["value"] for step in thresholds["steps"]]
            assert first is None
            assert others == sorted(others)

    def test_it_leads_on(self, panel: Panel) -> None:
        links = [*panel.json["links"], *_data_links(panel.json["fieldConfig"])]
        assert panel.json["links"]
        for link in links:
            target = URL.match(link["url"])
            assert target, link
            assert target[1] in (None, *UIDS)
            assert target[1] != panel.dashboard or "var-txn_type=" in link["url"]
            assert target[1] is None or "${datasource:queryparam}" in link["url"] or "${__all_variables}" in link["url"]

    def test_links_ask_for_the_very_name_however_odd(self, panel: Panel) -> None:
        odd = "a b&c=d/é"
        for link in _data_links(panel.json["fieldConfig"]):
            names = labels_in(link["url"]) - {"instance"}
            url = resolved(link["url"], {**dict.fromkeys(names, odd), "instance": "host:9840"})
            asked = parse_qs(urlsplit(url).query)
            assert [asked.get(name) or asked.get(f"var-{name}") for name in names] == [[odd] for _ in names]

    def test_its_queries_have_letters_of_their_own(self, panel: Panel) -> None:
        letters = [target["refId"] for target in panel.json["targets"]]
        assert letters
        assert len(set(letters)) == len(letters)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
class TestTarget:
    def test_it_has_a_legend_by_which_its_series_can_be_told_apart(self, target: Target) -> None:
        named = set(re.findall(r"\{\{(\w+)\}\}", target.json["legendFormat"]))
        kept = _kept_labels(target.expr)
        assert target.json["legendFormat"]
        if target.json["format"] == "time_series" and kept is not None:
            assert kept <= named, (kept, named)

    def test_links_name_labels_that_its_series_have(self, target: Target) -> None:
        kept = _kept_labels(target.expr)
        if kept is not None:
            wanted = set().union(*map(labels_in, links_of(target, dict.fromkeys(kept, ""))))
            assert wanted <= kept

    def test_it_asks_only_for_what_was_chosen(self, target: Target) -> None:
        """Each selector of ours names the variables; those of series by type also txn_type."""
        typed = {name for d in CATALOGUE if "txn_type" in d.labels for name in series_of(d)}
        for name, matchers in re.findall(r"((?:\w+:)?txninsight_\w+(?::\w+)?)(?:\{([^}]*)\})?", target.expr):
            assert 'cluster=~"$cluster"' in matchers, name
            assert 'instance=~"$instance"' in matchers, name
            assert ('txn_type=~"$txn_type"' in matchers) == (name in typed or name.startswith("txn_type")), name

    def test_only_what_grafana_9_3_knows_is_asked(self, target: Target) -> None:
        assert target.json["format"] in {"time_series", "table", "heatmap"}
        assert target.json["instant"] != target.json["range"]
        assert set(re.findall(r"\$(\w+)", target.expr)) <= {
            *("cluster", "instance", "txn_type"),
            *("__rate_interval", "__range"),
        }


def test_no_two_panels_ask_the_same() -> None:
    asked = Counter(tuple(sorted(t["expr"] for t in panel.json["targets"])) for panel in PANELS)
    assert [queries for queries, times in asked.items() if times > 1] == []
    assert [expr for expr, times in Counter(t.expr for t in TARGETS).items() if times > 1] == []


def test_no_two_panels_of_a_dashboard_have_one_title() -> None:
    assert max(Counter(panel.name for panel in PANELS).values()) == 1


def test_every_metric_that_is_named_exists() -> None:
    known = {name for definition in CATALOGUE for name in series_of(definition)}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    named = set().union(*(metrics_in(expr) for expr in expressions()))
    assert named
    assert named - known - recorded == set()


def test_every_alert_that_is_named_exists() -> None:
    known = {rule["alert"] for rule in rules() if "alert" in rule}
    named = {name for panel in PANELS for text in panel.texts() for name in re.findall(r"\bTxninsight[A-Z]\w+", text)}
    assert named
    assert named - known == set()


def test_every_metric_is_looked_at() -> None:
    used = set().union(*(metrics_in(expr) for expr in [*expressions(), *(rule["expr"] for rule in rules())]))
    assert [d.name for d in CATALOGUE if not series_of(d) & used] == []


def test_every_recorded_series_is_used() -> None:
    used = [*expressions(), *(rule["expr"] for rule in rules())]
    assert [r["record"] for r in rules() if "record" in r and not any(r["record"] in expr for expr in used)] == []


def test_exemplars_lead_to_the_daemon() -> None:
    provisioned = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "txninsight.yml").read_text())
    (source,) = provisioned["datasources"]
    (destination,) = source["jsonData"]["exemplarTraceIdDestinations"]
    assert source["type"] == "prometheus"
    assert destination["name"] == "txn_id"
    assert destination["url"].endswith("/api/v1/transactions/$${__value.raw:percentencode}")
    asking = [target for target in TARGETS if target.json["exemplar"]]
    assert asking
    assert all("_bucket{" in target.expr for target in asking)


def test_the_dashboards_are_provisioned_from_files() -> None:
    provisioned = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "txninsight.yml").read_text())
    (provider,) = provisioned["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"]


# --- Reading the JSON -------------------------------------------------------------------------------------------------


def _cells(ref: dict[str, int]) -> set[tuple[int, int]]:
    """The grid cells that a panel covers, as (column, row)."""
    return {(ref["x"] + i, ref["y"] + j) for i in range(ref["w"]) for j in range(ref["h"])}


def _values_of(key: str, value: Any) -> Any:
    """All values under a key, at any depth."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        for each in value.values():
            yield from _values_of(key, each)
    elif isinstance(value, list):
        for each in value:
            yield from _values_of(key, each)


def _units(config: dict[str, Any]) -> Any:
    yield config["defaults"]["unit"]
    yield from _properties(config, "unit")


def _thresholds(config: dict[str, Any]) -> Any:
    yield config["defaults"]["thresholds"]
    yield from _properties(config, "thresholds")


def _data_links(config: dict[str, Any]) -> list[dict[str, Any]]:
    overridden = [link for links in _properties(config, "links") for link in links]
    return [*config["defaults"].get("links", []), *overridden]


def _properties(config: dict[str, Any], wanted: str) -> list[Any]:
    return [p["value"] for o in config["overrides"] for p in o["properties"] if p["id"] == wanted]


def _kept_labels(expr: str) -> set[str] | None:
    """The labels that a query's series have by its first aggregation; None where that is not said."""
    grouping = re.search(r"\b(?:sum|max|min|avg) by \(([^)]*)\)", expr)
    if grouping:
        return {label.strip() for label in grouping[1].split(",")} - {"le"} | _le(expr)
    return set() if re.match(r"(?:sum|max|min)\(", expr) else None


def _le(expr: str) -> set[str]:
    """A histogram's bounds stay, but where a quantile is taken."""
    return {"le"} if re.match(r"sum by \(le\)", expr) else set()
