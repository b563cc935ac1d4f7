"""Speeds up monitoring files: divides all their durations by a factor and changes nothing else.

Waits of minutes suit an on-call engineer and are too long for a demo or a test. These functions take the parsed YAML of
the shipped files and return a faster copy. So the demo and the tests exercise the files that operators install.

The durations in an expression are those with PromQL's syntax (`[5m]`, `[1h:30s]`, `offset 1d`) and numbers of seconds
that a metric is compared with. Such a number stands directly behind a comparison. Before the comparison, on the same
line, stands a metric with a name in `_seconds`, alone or within functions that keep seconds (`max by (instance)
(x_seconds) > 60`). Ratios (`a_seconds / b_seconds > 2`), factors (`> 6 * b_seconds`), counts, names, strings and
comments stay unchanged.
"""

import re
from collections.abc import Mapping
from typing import Any

UNITS_MS = {
    "y": 365 * 86_400_000,
    "w": 7 * 86_400_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1000,
    "ms": 1,
}
MIN_INTERVAL_MS = 1000
MIN_RANGE_MS = 1

# The programs' defaults
PROMETHEUS_DEFAULTS = {"scrape_interval": "1m", "evaluation_interval": "1m"}
ROUTE_DEFAULTS = {"group_wait": "30s", "group_interval": "5m", "repeat_interval": "4h"}
ALERTMANAGER_DEFAULTS = {"resolve_timeout": "5m"}

PROMETHEUS_KEYS = ("scrape_interval", "scrape_timeout", "evaluation_interval", "refresh_interval")
ALERTMANAGER_KEYS = (*ROUTE_DEFAULTS, *ALERTMANAGER_DEFAULTS)
GROUP_KEYS = ("interval",)
RULE_KEYS = ("for", "keep_firing_for")

# Functions and clauses that keep seconds
KEEP_SECONDS = {
    *("max", "min", "avg", "sum", "quantile", "topk", "bottomk", "abs", "time", "timestamp"),
    *("max_over_time", "min_over_time", "avg_over_time", "last_over_time", "quantile_over_time"),
    *("by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless"),
}

_DURATION = r"(?:\d+(?:ms|[ywdhms]))+"
_PART = re.compile(r"(\d+)(ms|[ywdhms])")
_TIMED = re.compile(_DURATION)
_WHOLE = re.compile(f"{_DURATION}|0")
_OPAQUE = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`""")
_RANGE = re.compile(rf"\[[^\]]*\]|\boffset\s+-?\s*{_DURATION}")
# A number that a name or arithmetic follows is a factor (`> 6 * b_seconds`), and no match.
_COMPARED = re.compile(
    r"(?P<operator>[<>]=?|[=!]=)(?P<space>\s*(?:bool\b\s*)?)(?P<number>\d+(?:\.\d*)?|\.\d+)(?![\w.]|\s*[-+*/%^])"
)
_TOKEN = re.compile(r"[(\[{]|[)\]}]|\b(?:and|or|unless)\b|[<>]=?|[=!]=")
_SECONDS = re.compile(r"(?<![\w:])[a-zA-Z_:][\w:]*_seconds(?![\w:])")
_CALLED = re.compile(r"([a-zA-Z_]\w*)\s*\(")


def scale_rules(doc: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Scale a rule file: intervals (at least 1 s), `for`, `keep_firing_for`, and durations in expressions.

    Raises ValueError when a duration is not in Prometheus' syntax.
    """
    return {**doc, "groups": [_scale_group(group, factor) for group in doc["groups"]]}


def scale_prometheus(doc: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Scale a prometheus.yml: scrape and evaluation intervals, at least 1 s; missing defaults are written out.

    Raises ValueError when a duration is not in Prometheus' syntax.
    """
    whole = {**doc, "global": {**PROMETHEUS_DEFAULTS, **(doc.get("global") or {})}}
    scaled: dict[str, Any] = _walk(whole, PROMETHEUS_KEYS, factor)
    return scaled


def scale_alertmanager(doc: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Scale an alertmanager.yml: its waits, at least 1 s unless 0; missing defaults are written out.

    Raises ValueError when a duration is not in Prometheus' syntax.
    """
    whole = {
        **doc,
        "global": {**ALERTMANAGER_DEFAULTS, **(doc.get("global") or {})},
        "route": {**ROUTE_DEFAULTS, **doc["route"]},
    }
    scaled: dict[str, Any] = _walk(whole, ALERTMANAGER_KEYS, factor)
    return scaled


def scale_expression(expression: str, factor: float) -> str:
    """Scale the durations of a PromQL expression."""
    # A NUL replaces each string and comment, so nothing in them counts as a duration.
    pieces = _OPAQUE.split(expression)
    kept = _OPAQUE.findall(expression)
    hidden = "\0".join(_RANGE.sub(lambda found: _scale_durations(found[0], factor), piece) for piece in pieces)
    lines = "\n".join(_scale_line(line, factor) for line in hidden.split("\n"))
    return "".join(piece + opaque for piece, opaque in zip(lines.split("\0"), [*kept, ""], strict=True))


def scale_duration(text: str, factor: float, minimum_ms: int = 0) -> str:
    """Scale a duration such as 1h30m; 0 stays 0. Raises ValueError when it is invalid."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration: write it as 90s, 5m or 1h30m")
    length_ms = sum(int(number) * UNITS_MS[unit] for number, unit in _PART.findall(text))
    scaled_ms = max(round(length_ms / factor), minimum_ms) if length_ms else 0
    return f"{scaled_ms // 1000}s" if scaled_ms % 1000 == 0 else f"{scaled_ms}ms"


def _scale_group(group: Mapping[str, Any], factor: float) -> dict[str, Any]:
    rules = [_scale_rule(rule, factor) for rule in group["rules"]]
    return {**_scale_keys(group, GROUP_KEYS, factor, MIN_INTERVAL_MS), "rules": rules}


def _scale_rule(rule: Mapping[str, Any], factor: float) -> dict[str, Any]:
    return {**_scale_keys(rule, RULE_KEYS, factor, 0), "expr": scale_expression(str(rule["expr"]), factor)}


def _scale_keys(section: Mapping[str, Any], keys: tuple[str, ...], factor: float, minimum_ms: int) -> dict[str, Any]:
    return {
        key: scale_duration(str(value), factor, minimum_ms) if key in keys else value for key, value in section.items()
    }


def _walk(node: Any, keys: tuple[str, ...], factor: float) -> Any:
    if isinstance(node, Mapping):
        inner = {key: value if key in keys else _walk(value, keys, factor) for key, value in node.items()}
        return _scale_keys(inner, keys, factor, MIN_INTERVAL_MS)
    if isinstance(node, list):
        return [_walk(item, keys, factor) for item in node]
    return node


def _scale_durations(text: str, factor: float) -> str:
    return _TIMED.sub(lambda found: scale_duration(found[0], factor, MIN_RANGE_MS), text)


def _scale_line(line: str, factor: float) -> str:
    """Scale the seconds that a metric is compared with, in a line without strings and comments."""

    def scaled(found: re.Match[str]) -> str:
        if not _is_seconds(_operand(line[: found.start()])):
            return found[0]
        return f"{found['operator']}{found['space']}{float(found['number']) / factor:.12g}"

    return _COMPARED.sub(scaled, line)


def _operand(before: str) -> str:
    """The left side of a comparison, back to the enclosing bracket, comparison or set operator."""
    depth = 0
    # From right to left: closed brackets belong to the operand, an open one encloses it.
    for token in reversed(list(_TOKEN.finditer(before))):
        depth += (token[0] in ")]}") - (token[0] in "([{")
        if depth < 0 or (depth == 0 and token[0] not in "([{"):
            return before[token.end() :]
    return before


def _is_seconds(operand: str) -> bool:
    """Whether the left side of a comparison, within its line, is a number of seconds."""
    if not _SECONDS.search(operand) or re.search(r"[*/%^]", operand):
        return False
    return set(_CALLED.findall(operand)) <= KEEP_SECONDS
