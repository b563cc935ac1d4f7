"""What the report makes of samples whose answer is known."""

import pytest

from tests.soak.report import grew, quantile, slope_an_hour


def test_a_slope_is_that_of_the_line() -> None:
    at_s = [0.0, 10.0, 20.0, 30.0, 40.0]
    assert slope_an_hour(at_s, [5.0 + 2.0 * x for x in at_s]) == pytest.approx((7200.0, 0.0))


def test_a_noisy_slope_says_how_sure_it_is() -> None:
    at_s = [float(x) for x in range(100)]
    found = slope_an_hour(at_s, [100.0 + (1.0 if x % 2 else -1.0) for x in range(100)])
    assert found is not None
    slope, error = found
    assert abs(slope) < error < 50.0


def test_too_few_samples_have_no_slope() -> None:
    assert slope_an_hour([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) is None


@pytest.mark.parametrize(
    ("numbers", "is_growing"),
    [
        ([20, 21, 22, 23, 24, 25], True),
        ([20, 26, 20, 20, 26, 21], False),
        ([20, 20, 20, 20, 20, 20], False),
        ([25, 22, 20, 20, 20, 20], False),
        ([20], False),
    ],
)
def test_only_what_never_comes_down_again_grows(numbers: list[int], is_growing: bool) -> None:
    assert grew(numbers) is is_growing


def test_quantiles_are_values_that_were_seen() -> None:
    values = [float(x) for x in range(1, 101)]
    assert [quantile(values, q) for q in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert quantile([7.0], 0.99) == 7.0
