"""Adapts the shipped Alertmanager files to the local receivers.

The demo and the tests run the same files that operators install, with three changes. The addresses of PagerDuty and
Slack become those of `txninsightd.tools.receivers`, the paths of secrets lead to local files, and a factor may divide
the waits. Routes, groups, inhibition and texts stay. A receiver of another kind is refused, because it would send to
the outside.
"""

from collections.abc import Mapping
from pathlib import Path
from shutil import copytree
from typing import Any

import yaml

from txninsightd.tools.stack.machine import HOST
from txninsightd.tools.stack.time_scale import scale_alertmanager

PROGRAM = "prometheus-alertmanager"
CONFIG = "alertmanager.yml"
TEMPLATES = "templates"
PAGERDUTY_PATH = "/v2/enqueue"
SLACK_PATH = "/slack"

ROUTING_KEY_FILE = "pagerduty_routing_key"
WEBHOOK_FILE = "slack_webhook_url"
ROUTING_KEY = "0" * 32


def install(source: Path, directory: Path, receivers_url: str, factor: float = 1.0) -> Path:
    """Copy the Alertmanager files from `source` (monitoring/alertmanager) to `directory`, adapted; returns the config.

    `receivers_url` is the local receivers' base URL, and `factor` divides every wait. Raises ValueError for a receiver
    other than PagerDuty and Slack.
    """
    directory.mkdir(parents=True, exist_ok=True)
    copytree(source / TEMPLATES, directory / TEMPLATES, dirs_exist_ok=True)
    (directory / ROUTING_KEY_FILE).write_text(ROUTING_KEY)
    (directory / WEBHOOK_FILE).write_text(receivers_url.rstrip("/") + SLACK_PATH)
    document = yaml.safe_load((source / CONFIG).read_text())
    config = directory / CONFIG
    config.write_text(yaml.safe_dump(adapt(document, directory, receivers_url, factor), sort_keys=False))
    return config


def adapt(document: Mapping[str, Any], directory: Path, receivers_url: str, factor: float = 1.0) -> dict[str, Any]:
    """A parsed alertmanager.yml with local addresses, its secrets in `directory`, and its waits divided by `factor`."""
    url = receivers_url.rstrip("/") + PAGERDUTY_PATH
    local: dict[str, dict[str, str]] = {
        "pagerduty_configs": {"routing_key_file": str(directory.absolute() / ROUTING_KEY_FILE), "url": url},
        "slack_configs": {"api_url_file": str(directory.absolute() / WEBHOOK_FILE)},
    }
    receivers = [_adapt_receiver(receiver, local) for receiver in document["receivers"]]
    return scale_alertmanager({**document, "receivers": receivers}, factor)


def command(config: Path, data_dir: Path, port: int) -> list[str]:
    """The command line of an Alertmanager on 127.0.0.1:`port`, without a cluster."""
    return [
        PROGRAM,
        f"--config.file={config}",
        f"--storage.path={data_dir}",
        f"--web.listen-address={HOST}:{port}",
        f"--web.external-url=http://{HOST}:{port}",
        "--cluster.listen-address=",
    ]


def _adapt_receiver(receiver: Mapping[str, Any], local: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    foreign = sorted(receiver.keys() - local.keys() - {"name"})
    if foreign:
        raise ValueError(f"receiver {receiver['name']} has {', '.join(foreign)}: there is no local replacement for it")
    kinds = {kind: [{**each, **local[kind]} for each in receiver[kind]] for kind in receiver.keys() & local.keys()}
    return {**receiver, **kinds}
