"""What a client accepts: the Accept and Accept-Encoding headers, read with their weights (RFC 9110, section 12.4.2).

And how long it waits, which Prometheus says in a header of its own.
"""

import re
from enum import StrEnum

_SECONDS = re.compile(r"\d{1,9}(\.\d{0,20})?", re.ASCII)
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")

OPENMETRICS_TYPE = "application/openmetrics-text"


class Coding(StrEnum):
    """The content codings that are offered."""

    GZIP = "gzip"
    IDENTITY = "identity"


def weights(header: str) -> dict[str, float]:
    """The members of the header in lower case, each with its weight q; the largest of a name that occurs twice."""
    found: dict[str, float] = {}
    for member in header.lower().split(","):
        name, *parameters = (part.strip() for part in member.split(";"))
        if name:
            found[name] = max(found.get(name, 0.0), _weight(parameters))
    return found


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, value = (part.strip() for part in (parameter + "=").split("=")[:2])
        if name == "q":
            # A client cannot have wanted what it gives no valid weight.
            return float(value) if _WEIGHT.fullmatch(value) else 0.0
    return 1.0


def wants_openmetrics(accept: str) -> bool:
    """Whether the header names OpenMetrics, and plain text is not preferred. Wildcards mean plain text."""
    accepted = weights(accept)
    openmetrics = accepted.get(OPENMETRICS_TYPE, 0.0)
    plain = next((accepted[name] for name in ("text/plain", "text/*", "*/*") if name in accepted), 0.0)
    return openmetrics > 0 and openmetrics >= plain


def coding_for(accept_encoding: str) -> Coding | None:
    """The coding to use: gzip wherever it is accepted and identity is not preferred. None: neither is accepted."""
    accepted = weights(accept_encoding)
    others = accepted.get("*")
    gzip = accepted.get("gzip", accepted.get("x-gzip", others or 0.0))
    # Without the header, or when it is silent about identity, identity is accepted.
    identity = accepted.get("identity", others)
    if gzip > 0 and gzip >= (identity or 0.0):
        return Coding.GZIP
    return None if identity == 0 else Coding.IDENTITY


def patience_s(scrape_timeout: str, usual_s: float) -> float:
    """How long a client waits, by its X-Prometheus-Scrape-Timeout-Seconds header; `usual_s` where it says nothing."""
    return float(scrape_timeout) if _SECONDS.fullmatch(scrape_timeout) else usual_s
