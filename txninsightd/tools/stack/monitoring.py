"""The local stack's monitoring: Prometheus, Alertmanager, Grafana if installed, and the receivers.

All of them run with the files in monitoring/, so a stack runs from a checkout. `install` copies them and changes only
addresses, the paths of secrets, and durations (`SPEEDUP`, with at most one scrape and one evaluation a second). An
alert that takes minutes in production then takes seconds. Nothing leaves the machine: `txninsightd.tools.receivers`
replaces PagerDuty and Slack.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from txninsightd.tools.stack import StackError, alerting, machine
from txninsightd.tools.stack.settings import Settings
from txninsightd.tools.stack.supervision import Program
from txninsightd.tools.stack.time_scale import MIN_INTERVAL_MS, scale_duration, scale_prometheus, scale_rules

COMMANDS = ("prometheus", alerting.PROGRAM)
SHIPPED = Path(__file__).parents[3] / "monitoring"
HOW_TO_ADD_GRAFANA = (
    "not installed; to get it, follow https://grafana.com/docs/grafana/latest/setup-grafana/installation/ "
    "and run make up again"
)
SHIPPED_DAEMON = re.compile(r"\b(?:127\.0\.0\.1|localhost):9840\b")


@dataclass(frozen=True, kw_only=True)
class Service:
    """A supervised program, and the URL that answers once it is ready."""

    program: Program
    ready_url: str


def services(settings: Settings) -> list[Service]:
    """The monitoring services, in start order: targets of alerts come first."""
    found = [_receivers(settings), _alertmanager(settings), _prometheus(settings)]
    return [*found, _grafana(settings)] if settings.has_grafana else found


def install(settings: Settings) -> None:
    """Write all files into the run directory; StackError when this is not a checkout."""
    if not SHIPPED.is_dir():
        raise StackError(f"{SHIPPED} does not exist: run the local stack from a checkout of txninsightd")
    alerting.install(
        SHIPPED / "alertmanager", settings.monitoring_dir / "alertmanager", settings.receivers_url, settings.speedup
    )
    _install_prometheus(settings)
    if settings.has_grafana:
        _install_grafana(settings)


def adapt_prometheus(document: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Adapt a parsed prometheus.yml: it scrapes the stack's daemon, alerts its Alertmanager, and has its durations."""
    targets = [f"{machine.HOST}:{settings.http_port}"]
    jobs = [{**job, "static_configs": [{"targets": targets}]} for job in document["scrape_configs"]]
    alertmanagers = [{"static_configs": [{"targets": [f"{machine.HOST}:{settings.alertmanager_port}"]}]}]
    adapted = {**document, "scrape_configs": jobs, "alerting": {"alertmanagers": alertmanagers}}
    return scale_prometheus(adapted, settings.speedup)


def adapt_datasources(document: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Adapt a parsed provisioning file of data sources: the stack's addresses and durations."""
    sources = [_adapt_datasource(source, settings) for source in document["datasources"]]
    adapted: dict[str, Any] = _replace_daemon({**document, "datasources": sources}, settings)
    return adapted


def adapt_dashboards(document: Mapping[str, Any]) -> dict[str, Any]:
    """Adapt a parsed provisioning file of dashboards: they are read from the checkout."""
    options = {"path": str(SHIPPED / "grafana" / "dashboards")}
    providers = [{**each, "options": {**each.get("options", {}), **options}} for each in document["providers"]]
    return {**document, "providers": providers}


def _install_prometheus(settings: Settings) -> None:
    source, target = SHIPPED / "prometheus", settings.monitoring_dir / "prometheus"
    _write(target / "prometheus.yml", adapt_prometheus(_read(source / "prometheus.yml"), settings))
    for rules in sorted((source / "rules").glob("*.yml")):
        _write(target / "rules" / rules.name, scale_rules(_read(rules), settings.speedup))


def _install_grafana(settings: Settings) -> None:
    source, target = SHIPPED / "grafana" / "provisioning", settings.monitoring_dir / "grafana"
    for path in sorted((source / "datasources").glob("*.yml")):
        _write(target / "provisioning" / "datasources" / path.name, adapt_datasources(_read(path), settings))
    for path in sorted((source / "dashboards").glob("*.yml")):
        _write(target / "provisioning" / "dashboards" / path.name, adapt_dashboards(_read(path)))
    # A path may contain a %.
    config = ConfigParser(interpolation=None)
    config.read_dict(_grafana_ini(settings))
    with (target / "grafana.ini").open("w") as file:
        config.write(file)


def _grafana_ini(settings: Settings) -> dict[str, dict[str, object]]:
    """Anonymous viewers, no login, and no reports or downloads."""
    data = settings.data_dir / "grafana-data"
    quiet: dict[str, object] = {
        "reporting_enabled": "false",
        "check_for_updates": "false",
        "check_for_plugin_updates": "false",
    }
    return {
        "server": {"http_addr": machine.HOST, "http_port": settings.grafana_port},
        "paths": {
            "data": data,
            "logs": data / "log",
            "plugins": data / "plugins",
            "provisioning": settings.monitoring_dir / "grafana" / "provisioning",
        },
        "auth.anonymous": {"enabled": "true", "org_role": "Viewer"},
        "users": {"viewers_can_edit": "true"},
        "analytics": quiet,
        "news": {"news_feed_enabled": "false"},
        "log": {"mode": "console"},
    }


def _receivers(settings: Settings) -> Service:
    command = [sys.executable, "-m", "txninsightd.tools.receivers", "--port", str(settings.receivers_port)]
    program = Program(name="receivers", command=[*command, "--record", str(settings.record)])
    return Service(program=program, ready_url=settings.receivers_url)


def _alertmanager(settings: Settings) -> Service:
    config = settings.monitoring_dir / "alertmanager" / alerting.CONFIG
    command = alerting.command(config, settings.data_dir / "alertmanager-data", settings.alertmanager_port)
    program = Program(name="alertmanager", command=command)
    return Service(program=program, ready_url=f"{settings.alertmanager_url}/-/ready")


def _prometheus(settings: Settings) -> Service:
    command = [
        "prometheus",
        f"--config.file={settings.monitoring_dir / 'prometheus' / 'prometheus.yml'}",
        f"--storage.tsdb.path={settings.data_dir / 'prometheus-data'}",
        "--storage.tsdb.retention.time=1d",
        f"--web.listen-address={machine.HOST}:{settings.prometheus_port}",
        f"--web.external-url={settings.prometheus_url}",
        "--enable-feature=exemplar-storage",
    ]
    return Service(program=Program(name="prometheus", command=command), ready_url=f"{settings.prometheus_url}/-/ready")


def _grafana(settings: Settings) -> Service:
    config = settings.monitoring_dir / "grafana" / "grafana.ini"
    command: Sequence[str] = [*(machine.grafana() or []), "--config", str(config)]
    return Service(program=Program(name="grafana", command=command), ready_url=f"{settings.grafana_url}/api/health")


def _adapt_datasource(source: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    scraped_every = scale_duration(source["jsonData"]["timeInterval"], settings.speedup, MIN_INTERVAL_MS)
    return {
        **source,
        "url": settings.prometheus_url,
        "jsonData": {**source["jsonData"], "timeInterval": scraped_every},
    }


def _replace_daemon(node: Any, settings: Settings) -> Any:
    if isinstance(node, Mapping):
        return {key: _replace_daemon(value, settings) for key, value in node.items()}
    if isinstance(node, list):
        return [_replace_daemon(item, settings) for item in node]
    return SHIPPED_DAEMON.sub(f"{machine.HOST}:{settings.http_port}", node) if isinstance(node, str) else node


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
