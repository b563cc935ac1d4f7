"""The monitoring files that ship, made ready for the local stack: addresses and pace differ, and nothing else."""

from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from txninsightd.tools.stack import StackError, monitoring
from txninsightd.tools.stack.settings import Settings
from txninsightd.tools.stack.time_scale import scale_prometheus, scale_rules

PORTS = {"http_port": 29840, "prometheus_port": 29090, "alertmanager_port": 29094, "receivers_port": 29095}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(run_dir=tmp_path, scenario=Path("none.yaml"), speedup=60, has_grafana=True, **PORTS)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def differing(ours: Any, shipped: Any, path: str = "") -> dict[str, Any]:
    """What stands in ours and not so in what ships, by its place."""
    if isinstance(ours, dict) and isinstance(shipped, dict) and ours.keys() == shipped.keys():
        pairs = [(f"{path}/{key}", ours[key], shipped[key]) for key in ours]
    elif isinstance(ours, list) and isinstance(shipped, list) and len(ours) == len(shipped):
        pairs = [(f"{path}/{at}", mine, theirs) for at, (mine, theirs) in enumerate(zip(ours, shipped, strict=True))]
    else:
        return {} if ours == shipped else {path: ours}
    return {ref: value for pair in pairs for ref, value in differing(pair[1], pair[2], pair[0]).items()}


def test_prometheus_differs_in_addresses_and_pace(settings: Settings) -> None:
    monitoring.install(settings)
    shipped = read(monitoring.SHIPPED / "prometheus" / "prometheus.yml")
    ours = read(settings.monitoring_dir / "prometheus" / "prometheus.yml")
    assert differing(ours, scale_prometheus(shipped, 60)) == {
        "/alerting/alertmanagers/0/static_configs/0/targets/0": "127.0.0.1:29094",
        "/scrape_configs/0/static_configs/0/targets/0": "127.0.0.1:29840",
    }
    assert ours["global"]["scrape_interval"] == ours["global"]["evaluation_interval"] == "1s"


def test_all_rules_that_ship_are_there_and_differ_in_pace(settings: Settings) -> None:
    monitoring.install(settings)
    shipped = {path.name: read(path) for path in (monitoring.SHIPPED / "prometheus" / "rules").glob("*.yml")}
    ours = {path.name: read(path) for path in (settings.monitoring_dir / "prometheus" / "rules").glob("*.yml")}
    assert ours == {name: scale_rules(document, 60) for name, document in shipped.items()}
    assert {"alerts.yml", "recording.yml"} <= ours.keys()


def test_alertmanager_sends_to_the_local_receivers(settings: Settings) -> None:
    monitoring.install(settings)
    folder = settings.monitoring_dir / "alertmanager"
    receivers = {receiver["name"]: receiver for receiver in read(folder / "alertmanager.yml")["receivers"]}
    assert receivers["pagerduty"]["pagerduty_configs"][0]["url"] == "http://127.0.0.1:29095/v2/enqueue"
    webhook = Path(receivers["slack"]["slack_configs"][0]["api_url_file"])
    assert webhook.is_relative_to(folder)
    assert webhook.read_text() == "http://127.0.0.1:29095/slack"


def test_grafana_finds_prometheus_the_dashboards_and_the_daemon(settings: Settings) -> None:
    monitoring.install(settings)
    folder = settings.monitoring_dir / "grafana"
    config = ConfigParser(interpolation=None)
    config.read(folder / "grafana.ini")
    assert dict(config["server"]) == {"http_addr": "127.0.0.1", "http_port": "13000"}
    provisioning = Path(config["paths"]["provisioning"])
    shipped = monitoring.SHIPPED / "grafana" / "provisioning"
    sources, dashboards = (next((provisioning / kind).glob("*.yml")) for kind in ("datasources", "dashboards"))
    assert differing(read(sources), read(shipped / "datasources" / sources.name)) == {
        "/datasources/0/url": "http://127.0.0.1:29090",
        "/datasources/0/jsonData/timeInterval": "1s",
        "/datasources/0/jsonData/exemplarTraceIdDestinations/0/url": (
            "http://127.0.0.1:29840/api/v1/transactions/$${__value.raw:percentencode}"
        ),
    }
    path = Path(read(dashboards)["providers"][0]["options"]["path"])
    assert differing(read(dashboards), read(shipped / "dashboards" / dashboards.name)) == {
        "/providers/0/options/path": str(path)
    }
    assert list(path.glob("*.json"))


def test_without_grafana_nothing_of_it_is_written_or_run(tmp_path: Path) -> None:
    settings = Settings(run_dir=tmp_path, scenario=Path("none.yaml"), **PORTS)
    monitoring.install(settings)
    assert not (settings.monitoring_dir / "grafana").exists()
    names = [service.program.name for service in monitoring.services(settings)]
    assert names == ["receivers", "alertmanager", "prometheus"]


def test_outside_a_checkout_the_error_says_where_to_run_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "SHIPPED", tmp_path / "no-such-monitoring")
    with pytest.raises(StackError, match="run the local stack from a checkout"):
        monitoring.install(settings)
