"""Monitoring files made faster: each length of time is divided, and no other number."""

import copy
from typing import Any

import pytest

from txninsightd.tools.stack.time_scale import (
    scale_alertmanager,
    scale_duration,
    scale_expression,
    scale_prometheus,
    scale_rules,
)


@pytest.mark.parametrize(
    ("text", "scaled"),
    [
        ("5m", "5s"),
        ("1h30m", "90s"),
        ("30s", "500ms"),
        ("1d", "1440s"),
        ("250ms", "4ms"),
        ("0s", "0s"),
        ("0", "0s"),
    ],
)
def test_a_duration_is_divided(text: str, scaled: str) -> None:
    assert scale_duration(text, 60) == scaled


def test_what_is_no_duration_is_an_error_that_says_how_to_write_one() -> None:
    with pytest.raises(ValueError, match=r"'5 minutes' is not a duration: write it as 90s"):
        scale_duration("5 minutes", 60)


@pytest.mark.parametrize(
    ("expression", "scaled"),
    [
        pytest.param("increase(x_total[5m]) > 0", "increase(x_total[5s]) > 0", id="range"),
        pytest.param("max_over_time(x[1h30m:1m]) > 3", "max_over_time(x[90s:1s]) > 3", id="subquery"),
        pytest.param("x offset 1h", "x offset 60s", id="offset"),
        pytest.param("x offset -2h", "x offset -120s", id="negative offset"),
        pytest.param("x_age_seconds > 600", "x_age_seconds > 10", id="seconds"),
        pytest.param("x_age_seconds>=90.0", "x_age_seconds>=1.5", id="seconds without spaces"),
        pytest.param("x_age_seconds < bool 60", "x_age_seconds < bool 1", id="bool"),
        pytest.param(
            'x_seconds{view="m", t="> 60 \\" s"} > 60', 'x_seconds{view="m", t="> 60 \\" s"} > 1', id="labels"
        ),
        pytest.param("max by (a_2) (x_seconds) > 120", "max by (a_2) (x_seconds) > 2", id="aggregation"),
        pytest.param("time() - x_timestamp_seconds > 30", "time() - x_timestamp_seconds > 0.5", id="difference"),
        pytest.param("(a == 1 and x_seconds > 60)", "(a == 1 and x_seconds > 1)", id="in brackets"),
        pytest.param('x_seconds{view!="m"} > 60', 'x_seconds{view!="m"} > 1', id="unequal label"),
        pytest.param(
            "max(a_seconds unless b == 60) > 60", "max(a_seconds unless b == 60) > 1", id="of those not excluded"
        ),
        pytest.param("a_seconds > 60\nand b == 60", "a_seconds > 1\nand b == 60", id="lines"),
    ],
)
def test_lengths_of_time_in_an_expression_are_divided(expression: str, scaled: str) -> None:
    assert scale_expression(expression, 60) == scaled


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param("type:ratio:increase15m > 0.2", id="a name with a time in it"),
        pytest.param("x{window=\"5m\", other='[5m]'} > 60", id="strings"),
        pytest.param("x # it's [5m] and a_seconds > 60", id="comment"),
        pytest.param("x_seconds_count > 60", id="histogram count"),
        pytest.param("x_seconds:max > 60", id="another name's beginning"),
        pytest.param("count(x_seconds) > 60", id="count of series"),
        pytest.param("a_seconds / b_seconds > 60", id="ratio"),
        pytest.param("a_seconds > 6 * b_seconds", id="factor"),
        pytest.param("a_seconds > on (instance) b_seconds and c == 60", id="comparison of others on the line"),
        pytest.param("count(a_seconds > b_seconds) > 60", id="count of what is late"),
        pytest.param("a_seconds > b_seconds\n  > 60", id="metric on another line"),
        pytest.param("a_seconds and 60 < b", id="number on the left"),
        pytest.param("histogram_quantile(0.95, x_bucket) * 100 > 60", id="factor of a quantile"),
    ],
)
def test_what_is_no_length_of_time_is_not_touched(expression: str) -> None:
    assert scale_expression(expression, 60) == expression


RULES: dict[str, Any] = {
    "groups": [
        {
            "name": "example",
            "interval": "30s",
            "limit": 120,
            "rules": [
                {"record": "t:ratio:rate5m", "expr": "rate(a_total[5m]) / rate(b_total[5m])"},
                {
                    "alert": "Late",
                    "expr": "x_seconds > 600 and increase(a_total[10m]) > 3",
                    "for": "2m",
                    "labels": {"severity": "page", "for": "5m"},
                    "annotations": {"summary": "late for 5m, {{ $value }}"},
                },
                {"alert": "Now", "expr": "a > 60"},
            ],
        }
    ]
}


def test_rules_keep_all_but_their_lengths_of_time() -> None:
    before = copy.deepcopy(RULES)
    group = scale_rules(RULES, 60)["groups"][0]
    assert before == RULES, "the original stays"
    record, late, now = group["rules"]
    assert (group["name"], group["interval"], group["limit"]) == ("example", "1s", 120)
    assert record == {"record": "t:ratio:rate5m", "expr": "rate(a_total[5s]) / rate(b_total[5s])"}
    assert late == RULES["groups"][0]["rules"][1] | {
        "expr": "x_seconds > 10 and increase(a_total[10s]) > 3",
        "for": "2s",
    }
    assert now == {"alert": "Now", "expr": "a > 60"}


def test_prometheus_scrapes_and_evaluates_at_least_every_second() -> None:
    doc = {
        "global": {"scrape_interval": "15s", "external_labels": {"cluster": "5m"}},
        "scrape_configs": [
            {"job_name": "a", "scrape_interval": "10m", "scrape_timeout": "1m"},
            {"job_name": "b", "file_sd_configs": [{"files": ["x.yml"], "refresh_interval": "5m"}]},
        ],
    }
    assert scale_prometheus(doc, 60) == {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s", "external_labels": {"cluster": "5m"}},
        "scrape_configs": [
            {"job_name": "a", "scrape_interval": "10s", "scrape_timeout": "1s"},
            {"job_name": "b", "file_sd_configs": [{"files": ["x.yml"], "refresh_interval": "5s"}]},
        ],
    }
    assert scale_prometheus({}, 30)["global"] == {"scrape_interval": "2s", "evaluation_interval": "2s"}


def test_alertmanager_waits_less_in_every_route() -> None:
    doc = {
        "route": {
            "receiver": "slack",
            "group_interval": "10m",
            "routes": [{"receiver": "pagerduty", "group_wait": "0s", "repeat_interval": "4h"}],
        },
        "receivers": [{"name": "slack"}, {"name": "pagerduty"}],
    }
    scaled = scale_alertmanager(doc, 60)
    assert scaled["global"] == {"resolve_timeout": "5s"}
    assert scaled["route"] == {
        "receiver": "slack",
        "group_wait": "1s",
        "group_interval": "10s",
        "repeat_interval": "240s",
        "routes": [{"receiver": "pagerduty", "group_wait": "0s", "repeat_interval": "240s"}],
    }
    assert scaled["receivers"] == doc["receivers"]
