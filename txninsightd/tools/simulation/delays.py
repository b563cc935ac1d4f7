"""Distributions of times: constant, uniform, exponential and lognormal, clipped to bounds.

A delay in a scenario is a number of seconds, or one of
`{uniform: [low, high]}`, `{exponential: {mean: s}}`, `{lognormal: {median: s, sigma: x}}`; the latter two take `min`
and `max`. The caller passes the random stream, so its draws do not depend on other callers.
"""

from random import Random
from typing import Any

UNBOUNDED = float("inf")


class Delay:
    """A distribution of times in seconds. `a` and `b` are its parameters; `low` and `high` clip every draw."""

    __slots__ = ("a", "b", "high", "kind", "low")

    def __init__(self, kind: str, a: float, b: float = 0.0, low: float = 0.0, high: float = UNBOUNDED) -> None:
        self.kind = kind
        self.a = a
        self.b = b
        self.low = low
        self.high = high

    def draw(self, rng: Random) -> float:
        """One time, in seconds."""
        return min(max(self._raw(rng), self.low), self.high)

    def _raw(self, rng: Random) -> float:
        match self.kind:
            case "uniform":
                return rng.uniform(self.a, self.b)
            case "exponential":
                return rng.expovariate(1.0 / self.a)
            case "lognormal":
                # The lognormal factor has the median 1, so the product has the median `a`.
                return self.a * rng.lognormvariate(0.0, self.b)
            case _:
                return self.a

    @property
    def longest(self) -> float:
        """The upper bound of every draw; infinite if there is none."""
        match self.kind:
            case "constant":
                return self.a
            case "uniform":
                return self.b
            case _:
                return self.high


def constant(seconds: float) -> Delay:
    """Always the same time."""
    return Delay("constant", seconds)


def delay_from(value: Any) -> Delay:
    """Parse a scenario's delay; the schema has checked its form."""
    if isinstance(value, int | float):
        return constant(float(value))
    (kind, options) = next(iter(value.items()))
    if kind == "uniform":
        return Delay("uniform", float(options[0]), float(options[1]))
    bounds = (float(options.get("min", 0.0)), float(options.get("max", UNBOUNDED)))
    if kind == "exponential":
        return Delay("exponential", float(options["mean"]), 0.0, *bounds)
    return Delay("lognormal", float(options["median"]), float(options["sigma"]), *bounds)
