"""Each property is a test in two forms: short, the same on every machine, for CI; and long, each time another (`full`).

What the long form finds is printed with what reproduces it, and goes into `found/` as a seed or into an `@example`.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.harness.core.worlds import Drawn

SHORT = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
LONG = settings(SHORT, derandomize=False, print_blob=True)


def fuzz(short: int, long: int, **strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """Make a test of a property, with this number of examples in each form."""

    def made(check: Callable[..., None]) -> Any:
        def chosen(**arguments: Any) -> None:
            check(**{n: Drawn(a.draw) if isinstance(a, st.DataObject) else a for n, a in arguments.items()})

        @pytest.mark.parametrize(
            "form",
            [
                pytest.param(settings(SHORT, max_examples=short), id="short"),
                pytest.param(settings(LONG, max_examples=long), id="long", marks=pytest.mark.full),
            ],
        )
        def test(form: settings) -> None:
            form(given(**strategies)(chosen))()

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    return made


def choosers() -> st.SearchStrategy[Any]:
    """A Chooser, whose decisions hypothesis makes, and shrinks."""
    return st.data()
