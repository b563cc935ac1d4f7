"""The figures: from runs to medians, as JSON with all that one needs to judge them, and as tables for people.

CPU is in microseconds per event, start-up taken off; memory in bytes. `docs/performance.md` carries the tables between
two markers, and nothing else in it is touched.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from confluent_kafka import libversion
from rich.console import Console

from tests.bench.runs import Run
from tests.bench.workload import Variant
from tests.harness.paths import ROOT
from txninsightd.tools.stack.jars import kafka_version

PROCESSES = ("parent", "monitor", "validator", "aggregator")
LIBRARIES = ("confluent-kafka", "msgspec", "uvloop", "aiohttp", "prometheus-client")
MARKERS = ("<!-- bench: begin -->", "<!-- bench: end -->")
DOCS = ROOT / "docs" / "performance.md"
MIB = 1 << 20


class Measured(NamedTuple):
    """All runs of one variant."""

    variant: Variant
    runs: Sequence[Run]


def figures(
    startup: Sequence[Run],
    measured: Iterable[Measured],
    never_closed: Measured | None,
    yardsticks: Mapping[str, list[float]],
) -> dict[str, Any]:
    """Everything that is reported. `startup`: runs on an empty topic; `yardsticks`: CPU us per event, by run."""
    empty_s = {p: median(run.usages[p].cpu_s for run in startup) for p in PROCESSES}
    empty_wall_s = median(run.wall_s for run in startup)
    empty_rss = {p: median(run.usages[p].rss_bytes for run in startup) for p in PROCESSES}
    report: dict[str, Any] = {
        "facts": facts(),
        "startup": {"cpu_s": empty_s, "wall_s": empty_wall_s, "rss_bytes": empty_rss},
        "yardsticks_cpu_us_per_event": {name: round(median(all_of), 3) for name, all_of in yardsticks.items()},
        "variants": {m.variant.name: _variant(m, empty_s, empty_wall_s) for m in measured},
    }
    if never_closed is not None:
        rss = median(run.usages["aggregator"].rss_bytes for run in never_closed.runs)
        count = never_closed.variant.transactions
        report["open_transactions"] = {
            "transactions": count,
            "aggregator_rss_bytes": rss,
            "rss_bytes_per_open_transaction": round((rss - empty_rss["aggregator"]) / count),
        }
    return report


def _variant(measured: Measured, empty_s: Mapping[str, float], empty_wall_s: float) -> dict[str, Any]:
    runs = measured.runs

    def cpu_us(run: Run, process: str) -> float:
        return (run.usages[process].cpu_s - empty_s[process]) / run.events * 1e6

    return {
        "what": measured.variant.what,
        "runs": len(runs),
        "events": runs[0].events,
        "transactions": measured.variant.transactions,
        "cpu_us_per_event": {p: round(median(cpu_us(run, p) for run in runs), 3) for p in PROCESSES},
        "cpu_us_per_event_sum": round(median(sum(cpu_us(run, p) for p in PROCESSES) for run in runs), 3),
        "cpu_us_per_event_sums": [round(sum(cpu_us(run, p) for p in PROCESSES), 3) for run in runs],
        "events_per_s": round(median(run.events / max(run.wall_s - empty_wall_s, 0.1) for run in runs)),
        "rss_bytes": {p: median(run.usages[p].rss_bytes for run in runs) for p in PROCESSES},
        "most_rss_bytes": {p: median(run.usages[p].most_rss_bytes for run in runs) for p in PROCESSES},
    }


# --- Facts ------------------------------------------------------------------------------------------------------------


def facts() -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _first_value("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_bytes": int(_first_value("/proc/meminfo", "MemTotal").split()[0]) * 1024,
        "load_average": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "librdkafka": libversion()[0],
        "kafka": kafka_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def _first_value(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "0"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


# --- Tables -----------------------------------------------------------------------------------------------------------


def markdown(report: Mapping[str, Any]) -> str:
    """The tables."""
    parts = [_conditions(report), _cpu_table(report), _yardsticks(report), _memory_table(report)]
    return "\n\n".join(part for part in parts if part)


def _conditions(report: Mapping[str, Any]) -> str:
    f = report["facts"]
    runs = max((figure["runs"] for figure in report["variants"].values()), default=0)
    return (
        f"Measured {f['date'][:10]} at {f['commit']}: {f['cpu']}, {f['cores']} cores shared with the broker, "
        f"{f['memory_bytes'] / 2**30:.0f} GiB, Linux {f['kernel']}; Python {f['python']}, "
        f"confluent-kafka {f['confluent-kafka']}, librdkafka {f['librdkafka']}, msgspec {f['msgspec']}, "
        f"Kafka {f['kafka']}. Runs of each variant, of which medians are shown: {runs}. "
        f"Load average at the end: {f['load_average']:.1f}."
    )


def _cpu_table(report: Mapping[str, Any]) -> str:
    loop = report["yardsticks_cpu_us_per_event"].get("loop")
    head = ["variant", "events", *PROCESSES, "**sum**", *(["of the loop"] if loop else []), "events/s"]
    rows = []
    for name, figure in report["variants"].items():
        cpu, whole = figure["cpu_us_per_event"], figure["cpu_us_per_event_sum"]
        ratio = [f"{whole / loop:.1f} x"] if loop else []
        costs = [f"{cpu[p]:.2f}" for p in PROCESSES]
        rows.append([name, f"{figure['events']:,}", *costs, f"**{whole:.2f}**", *ratio, f"{figure['events_per_s']:,}"])
    return "CPU microseconds per event:\n\n" + _table(head, rows, left=1) if rows else ""


def _yardsticks(report: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name} {us:.2f}" for name, us in report["yardsticks_cpu_us_per_event"].items())
    return f"Yardsticks on the main topic, one view, CPU microseconds per event: {said}." if said else ""


def _memory_table(report: Mapping[str, Any]) -> str:
    startup = report["startup"]["rss_bytes"]
    rows = [["after start", *(f"{startup[p] / MIB:.0f}" for p in PROCESSES)]]
    for name, figure in report["variants"].items():
        now, most = figure["rss_bytes"], figure["most_rss_bytes"]
        rows.append([name, *(f"{now[p] / MIB:.0f} ({most[p] / MIB:.0f})" for p in PROCESSES)])
    text = "Resident memory at the end of the run (at most), MiB:\n\n" + _table(["variant", *PROCESSES], rows, left=1)
    waiting = report.get("open_transactions")
    if waiting:
        text += (
            f"\n\nOne open transaction of 4 events: {waiting['rss_bytes_per_open_transaction']:,} bytes of the "
            f"aggregator's memory ({waiting['transactions']:,} of them, less the aggregator's memory after start)."
        )
    return text


def _table(head: list[str], rows: list[list[str]], left: int) -> str:
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def into_docs(docs: str, tables: str, markers: tuple[str, str] = MARKERS) -> str:
    """The document with the tables between its markers. Raises ValueError where it has none."""
    begin, end = markers
    before, found, rest = docs.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"the document has no {begin} followed by {end}")
    return f"{before}{begin}\n\n{tables}\n\n{end}{after}"


def publish(found: dict[str, Any], tables: str, json_to: Path, markers: tuple[str, str] | None) -> None:
    """Write the figures as JSON, print the tables, and put them between these markers of docs/performance.md."""
    json_to.parent.mkdir(parents=True, exist_ok=True)
    json_to.write_text(json.dumps(found, indent=2) + "\n")
    Console().print(tables, markup=False, highlight=False, soft_wrap=True)
    if markers is not None:
        DOCS.write_text(into_docs(DOCS.read_text(), tables, markers))
