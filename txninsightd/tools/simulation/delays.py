"""How long things take: constant, uniform, exponential and lognormal times, clipped to bounds, and outliers.

A delay in a scenario is a number of seconds, or one of
`{uniform: [low, high]}`, `{exponential: {mean: s}}`, `{lognormal: {median: s, sigma: x}}`; the latter two take `min`
and `max`. Every draw comes from the random stream that is handed in, so who draws decides what is drawn.
"""

from random import Random
from typing import Any

UNBOUNDED = float("inf")


class Delay:
    """A distribution of times in seconds. `a` and `b` are what its kind needs, `low` and `high` clip every draw."""

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
                # The median of what is drawn is 1, so `a` is that of the product.
                return self.a * rng.lognormvariate(0.0, self.b)
            case _:
                return self.a

    @property
    def longest(self) -> float:
        """The upper bound of every draw, infinite where there is none."""
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
    """Read a delay as a scenario writes it; its form was checked by the schema."""
    if isinstance(value, int | float):
        return constant(float(value))
    (kind, options) = next(iter(value.items()))
    if kind == "uniform":
        return Delay("uniform", float(options[0]), float(options[1]))
    bounds = (float(options.get("min", 0.0)), float(options.get("max", UNBOUNDED)))
    if kind == "exponential":
        return Delay("exponential", float(options["mean"]), 0.0, *bounds)
    return Delay("lognormal", float(options["median"]), float(options["sigma"]), *bounds)
