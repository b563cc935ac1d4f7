"""Queries as Grafana sends them to Prometheus: its variables replaced by their values."""

import re

RATE_INTERVAL_S = 15
"""Grafana's $__rate_interval is at least four scrape intervals; here more, since a busy machine misses some scrapes."""


def substituted(expression: str, range_s: float, **variables: str) -> str:
    """An expression as Grafana sends it; a variable that is not given is `All`."""
    values = {
        "__rate_interval": f"{RATE_INTERVAL_S}s",
        "__range": f"{max(1, round(range_s))}s",
        **dict.fromkeys(("cluster", "instance", "txn_type"), ".*"),
        **variables,
    }
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], expression)


def one_of(*values: str) -> str:
    """Several values of a variable as Grafana writes them, for a regular expression within a quoted string."""
    return f"({'|'.join(re.escape(value) for value in values)})".replace("\\", "\\\\")
