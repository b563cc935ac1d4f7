"""The styles of worlds that a property is held on, by name."""

import pytest

from tests.harness.core.worlds import Style

STYLES = {
    "plain": Style(),
    "colocated": Style(colocated=True),
    "impatient": Style(settle_max_s=20.0),
    "vanishing": Style(vanishing=True),
    "breached": Style(colocated=True, breaches=True),
    "large": Style(most_business=8, most_actions=90),
    "large-colocated": Style(colocated=True, most_business=8, most_actions=90, vanishing=True),
    "odd-clocks": Style(settle_max_s=15.0, vanishing=True, odd_clocks=30),
}
every_style = pytest.mark.parametrize("style", STYLES)
