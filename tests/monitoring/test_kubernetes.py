"""The Kubernetes rendering: what is checked in is what the rules give, and means the same."""

from typing import Any

import pytest
import yaml

from monitoring.kubernetes.render import HERE, RULES, groups, rendered
from tests.harness.paths import ROOT


def loaded(name: str) -> dict[str, Any]:
    """A file that is checked in, parsed."""
    document: dict[str, Any] = yaml.safe_load((HERE / name).read_text())
    return document


def scrape_config() -> dict[str, Any]:
    """The prometheus.yml that ships."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "prometheus.yml").read_text())
    return config


def test_what_is_checked_in_is_what_the_rules_give() -> None:
    shipped = {path.name: path.read_text() for path in HERE.glob("*.yaml")}
    assert shipped == rendered(), "run: python monitoring/kubernetes/render.py"


def test_the_rule_resource_has_every_group_unchanged() -> None:
    written = [group for path in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    assert loaded("prometheusrule.yaml")["spec"] == {"groups": written}


def test_the_monitor_scrapes_as_the_scrape_config_does() -> None:
    (endpoint,) = loaded("servicemonitor.yaml")["spec"]["endpoints"]
    config = scrape_config()
    (job,) = config["scrape_configs"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": job["job_name"]}]
    assert endpoint["interval"] == config["global"]["scrape_interval"]
    assert endpoint["scrapeTimeout"] == config["global"]["scrape_timeout"]


def test_a_rule_file_of_another_form_is_refused(tmp_path: Any) -> None:
    odd = tmp_path / "odd.yml"
    odd.write_text("# no groups\n{groups: []}\n")
    with pytest.raises(ValueError, match="groups"):
        groups(odd)
