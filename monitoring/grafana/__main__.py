"""Writes the dashboards into dashboards/ in this folder, and removes obsolete ones."""

import json
from pathlib import Path

from monitoring.grafana import daemon, kafka, overview, transaction_type
from monitoring.grafana.parts import Json

FOLDER = Path(__file__).parent / "dashboards"


def rendered() -> dict[str, str]:
    """The text of each dashboard, by file name."""
    return {f"{d['uid']}.json": _text(d) for d in dashboards()}


def dashboards() -> list[Json]:
    """All dashboards, in reading order."""
    return [overview.dashboard(), transaction_type.dashboard(), kafka.dashboard(), daemon.dashboard()]


def main() -> None:
    """Write all dashboards."""
    files = rendered()
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.json"):
        if old.name not in files:
            old.unlink()
    for name, text in files.items():
        (FOLDER / name).write_text(text)


def _text(dashboard: Json) -> str:
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
