"""From what a soak saw to figures (JSON) and tables (Markdown).

Slopes are least squares over the second half of the run, with twice the standard error of the fit beside them; CPU is
what a process used in the second half, by the records that were read in it. `pulse_in_checkpoints`: round trips that
overlap with the making of a checkpoint. A figure that there is too little to tell of is None.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from statistics import fmean, linear_regression
from typing import Any

from tests.bench.report import MIB
from tests.soak.experiment import Checkpoint, Sample, Seen
from tests.soak.instruments import Probe

ROWS = 10
HOUR_S = 3600.0
FEWEST_FOR_A_SLOPE = 4
MS = 1000.0


def figures(seen: Seen) -> dict[str, Any]:
    """All figures, and the samples that they come from."""
    samples, half = seen.samples, second_half(seen.samples)
    pulse, probes = seen.pulse, seen.probes
    took_s = list(pulse.took_s) if pulse else []
    return {
        "facts": seen.facts,
        "plan": seen.plan._asdict(),
        "lasted_s": samples[-1].at_s if samples else 0.0,
        "events_per_s": _rate(samples),
        "events_per_s_second_half": _rate(half),
        "load_average": _spread([s.load_average for s in samples]),
        "processes": {name: _process(name, seen, half) for name in (samples[-1].processes if samples else {})},
        "question_cpu_us": round(seen.question_cpu_us, 1),
        "questions_per_event": _questions_per_event(seen),
        "pauses_a_minute": round(samples[-1].pauses / samples[-1].at_s * 60, 1) if samples else None,
        "checkpoints": _checkpoints(seen.checkpoints),
        "pulse_s": _spread(took_s),
        "pulse_in_checkpoints_s": _spread(_overlapping(seen)),
        "pulse_own_s": _spread(list(pulse.own_s) if pulse else []),
        "late_s": _spread(list(pulse.late_s) if pulse else []),
        "probes": len(probes.done) if probes else 0,
        "latency_s": {name: _spread([getattr(p, name) for p in probes.done]) for name in Probe._fields}
        if probes
        else {},
        "resolution_s": {what: _spread(of) for what, of in probes.resolution_s.items()} if probes else {},
        "contradictions": probes.contradictions if probes else [],
        "restarted": seen.restarted,
        "stopped_by": seen.stopped_by,
        "exit_code": seen.exit_code,
        "compared": bool(seen.metrics),
        "differences": seen.differences,
        "samples": [_plain(sample) for sample in samples],
    }


def second_half(samples: Sequence[Sample]) -> list[Sample]:
    """Those after half of the time."""
    return [s for s in samples if s.at_s >= samples[-1].at_s / 2]


def slope_an_hour(at_s: Sequence[float], values: Sequence[float]) -> tuple[float, float] | None:
    """By least squares, with twice its standard error; both for an hour."""
    if len(at_s) < FEWEST_FOR_A_SLOPE:
        return None
    slope, intercept = linear_regression(at_s, values)
    mean = fmean(at_s)
    residual = sum((y - intercept - slope * x) ** 2 for x, y in zip(at_s, values, strict=True))
    spread = sum((x - mean) ** 2 for x in at_s)
    return slope * HOUR_S, 2 * math.sqrt(residual / (len(at_s) - 2) / spread) * HOUR_S


def grew(numbers: Sequence[int]) -> bool:
    """Whether even the least of the last third is more than the most of the first third."""
    third = max(1, len(numbers) // 3)
    return min(numbers[-third:]) > max(numbers[:third])


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which a share `q` of them lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)]


def _process(name: str, seen: Seen, half: Sequence[Sample]) -> dict[str, Any]:
    looks = [sample.processes[name] for sample in seen.samples]
    later = [sample.processes[name] for sample in half]
    slope = slope_an_hour([s.at_s for s in half], [float(x.rss_bytes) for x in later])
    events = half[-1].read - half[0].read
    return {
        "rss_bytes_first": looks[0].rss_bytes,
        "rss_bytes_half_time": later[0].rss_bytes,
        "rss_bytes_last": looks[-1].rss_bytes,
        "rss_bytes_most": looks[-1].most_rss_bytes,
        "rss_slope_bytes_an_hour": round(slope[0]) if slope else None,
        "rss_slope_error_bytes_an_hour": round(slope[1]) if slope else None,
        "descriptors": _range([x.descriptors for x in looks]),
        "descriptors_grew": grew([x.descriptors for x in looks]),
        "threads": _range([x.threads for x in looks]),
        "threads_grew": grew([x.threads for x in looks]),
        "cpu_us_per_event": _per_event(later[-1].cpu_s - later[0].cpu_s, events),
        "ended_children_cpu_us_per_event": _per_event(
            later[-1].ended_children_cpu_s - later[0].ended_children_cpu_s, events
        ),
    }


def _per_event(cpu_s: float, events: int) -> float | None:
    return round(cpu_s / events * 1e6, 2) if events else None


def _questions_per_event(seen: Seen) -> float | None:
    asked = sum(each.requests for each in (seen.pulse, seen.probes) if each is not None)
    return round(asked / seen.samples[-1].read, 5) if seen.samples and seen.samples[-1].read else None


def _checkpoints(checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    return {
        "written": len(checkpoints),
        "bytes": _spread([float(c.size_bytes) for c in checkpoints]),
        "duration_s": _spread([c.duration_s for c in checkpoints]),
        "all": [list(c) for c in checkpoints],
    }


def _overlapping(seen: Seen) -> list[float]:
    if seen.pulse is None:
        return []
    offset = seen.began_at - seen.began_monotonic
    spans = [(c.ended_at - c.duration_s, c.ended_at) for c in seen.checkpoints]
    found, i = [], 0
    for began_at, took_s in zip(seen.pulse.began_at, seen.pulse.took_s, strict=True):
        while i < len(spans) and spans[i][1] < began_at + offset:
            i += 1
        if i < len(spans) and spans[i][0] <= began_at + offset + took_s:
            found.append(took_s)
    return found


def _rate(samples: Sequence[Sample]) -> float | None:
    if len(samples) < 2:
        return None
    return round((samples[-1].read - samples[0].read) / (samples[-1].at_s - samples[0].at_s), 1)


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Count, least, median, p99 and most; empty without any."""
    if not values:
        return {}
    names = {"p50": 0.5, "p99": 0.99}
    return {
        "count": len(values),
        "least": min(values),
        **{name: quantile(values, q) for name, q in names.items()},
        "most": max(values),
    }


def _range(numbers: Iterable[int]) -> list[int]:
    found = list(numbers)
    return [min(found), max(found)]


def _plain(sample: Sample) -> dict[str, Any]:
    return {**sample._asdict(), "processes": {name: look._asdict() for name, look in sample.processes.items()}}


# --- Tables -----------------------------------------------------------------------------------------------------------


def markdown(found: dict[str, Any]) -> str:
    """The tables."""
    if not found["samples"]:
        return "Stopped before the first sample: there is nothing to tell."
    parts = (_conditions, _course, _processes, _latencies, _verdict)
    return "\n\n".join(part(found) for part in parts)


def _conditions(found: dict[str, Any]) -> str:
    f, load = found["facts"], found["load_average"]
    return (
        f"{f['date'][:10]} at {f['commit']}: {found['lasted_s'] / 60:.0f} minutes at "
        f"{found['events_per_s'] or 0:,.0f} events/s (asked for: {found['plan']['rate']:,.0f}), "
        f"{found['samples'][-1]['read']:,} records read. {f['cpu']}, {f['cores']} cores, "
        f"{f['memory_bytes'] / 2**30:.0f} GiB, Linux {f['kernel']}, shared by broker, load, daemon and other programs: "
        f"load average {load['least']:.1f} to {load['most']:.1f}, median {load['p50']:.1f}. "
        f"Python {f['python']}, librdkafka {f['librdkafka']}, Kafka {f['kafka']}."
    )


def _course(found: dict[str, Any]) -> str:
    samples = found["samples"]
    chosen = sorted({round(i * (len(samples) - 1) / ROWS) for i in range(ROWS + 1)})
    names = list(samples[-1]["processes"])
    head = [
        "minute",
        "events/s",
        "load average",
        "lag",
        "open",
        "lingering",
        "remembered",
        *(f"{n}, MiB" for n in names),
    ]
    rows = []
    for before, now in pairwise(samples[i] for i in chosen):
        rate = (now["read"] - before["read"]) / (now["at_s"] - before["at_s"])
        counts = [f"{now[key]:,}" for key in ("lag", "open", "lingering", "remembered")]
        memory = [f"{now['processes'][name]['rss_bytes'] / MIB:.1f}" for name in names]
        rows.append([f"{now['at_s'] / 60:.1f}", f"{rate:,.0f}", f"{now['load_average']:.1f}", *counts, *memory])
    return "Resident memory over time:\n\n" + _table(head, rows, left=0)


def _processes(found: dict[str, Any]) -> str:
    head = [
        "process",
        "RSS at half-time, MiB",
        "at the end",
        "peak",
        "slope, MiB/h (± 2 s.e.)",
        "descriptors",
        "threads",
        "CPU us/event",
    ]
    rows = []
    for name, p in found["processes"].items():
        memory = [p[f"rss_bytes_{when}"] / MIB for when in ("half_time", "last", "most")]
        slope, error = p["rss_slope_bytes_an_hour"], p["rss_slope_error_bytes_an_hour"]
        told = f"{slope / MIB:+.2f} ± {error / MIB:.2f}" if slope is not None else ""
        ranges = [_from_to(p["descriptors"], p["descriptors_grew"]), _from_to(p["threads"], p["threads_grew"])]
        rows.append([name, *(f"{m:.1f}" for m in memory), told, *ranges, _number(p["cpu_us_per_event"])])
    writers = found["processes"]["aggregator"]["ended_children_cpu_us_per_event"]
    rows.append(["checkpoint writers", "", "", "", "", "", "", _number(writers)])
    asked = (found["questions_per_event"] or 0) * found["question_cpu_us"]
    return (
        _table(head, rows, left=1)
        + f"\n\nOf the aggregator's CPU, about {asked:.1f} us/event are the soak's own questions "
        + f"({found['question_cpu_us']:.0f} us each, measured before the load). "
        + f"Readers paused {found['pauses_a_minute']} times a minute."
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _from_to(numbers: Sequence[int], has_grown: bool) -> str:
    least, most = numbers
    return (f"{least}" if least == most else f"{least} to {most}") + (" **growing**" if has_grown else "")


def _latencies(found: dict[str, Any]) -> str:
    checkpoints, resolution = found["checkpoints"], found["resolution_s"]
    every: list[tuple[str, dict[str, float], Callable[[float], str]]] = [
        ("probe: produce to live gauges, ms", found["latency_s"]["live_s"], _ms),
        ("probe: the commit's call, ms", found["latency_s"]["commit_s"], _ms),
        ("probe: commit returned to Closed in the API, ms", found["latency_s"]["closed_s"], _ms),
        ("probe: commit returned to settled counters, ms", found["latency_s"]["settled_s"], _ms),
        ("polling's resolution, live, ms", resolution["live"], _ms),
        ("polling's resolution, settled, ms", resolution["settled"], _ms),
        ("GET /healthz every 50 ms, ms", found["pulse_s"], _ms),
        ("the same, less the aggregator's waits for a CPU, ms", found["pulse_own_s"], _ms),
        ("GET /healthz while a checkpoint is written, ms", found["pulse_in_checkpoints_s"], _ms),
        ("how late the asking thread itself woke up, ms", found["late_s"], _ms),
        ("checkpoint: size, MB", checkpoints["bytes"], lambda size_bytes: f"{size_bytes / 1e6:.1f}"),
        ("checkpoint: until it was safe on disk, ms", checkpoints["duration_s"], _ms),
    ]
    rows = [
        [what, f"{of['count']:,}", *(show(of[name]) for name in ("p50", "p99", "most"))]
        for what, of, show in every
        if of
    ]
    return _table(["what", "times", "p50", "p99", "max"], rows, left=1)


def _ms(seconds: float) -> str:
    return f"{seconds * MS:,.1f}"


def _verdict(found: dict[str, Any]) -> str:
    wrong = [*found["differences"], *found["contradictions"], *(f"restarted: {name}" for name in found["restarted"])]
    if not found["compared"]:
        wrong.append("not known, since it ended before everything was settled")
    return "Differences to what was written: " + ("; ".join(wrong) if wrong else "none") + "."


def _table(head: list[str], rows: list[list[str]], left: int) -> str:
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))
