"""When the dead are started again, and when they are given up."""

from txninsightd.supervise.backoff import Backoff


def test_waits_double_up_to_the_bound() -> None:
    backoff = Backoff(initial_s=0.5, max_s=30, give_up_after=100, window_s=300)
    assert [backoff.exited(now=10) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_bound_below_the_first_wait_holds_too() -> None:
    assert Backoff(initial_s=5, max_s=2, give_up_after=3, window_s=300).exited(now=0) == 2


def test_too_many_deaths_within_the_window_are_hopeless() -> None:
    backoff = Backoff(initial_s=1, max_s=30, give_up_after=3, window_s=100)
    backoff.exited(now=0)
    backoff.exited(now=50)
    assert not backoff.exhausted
    backoff.exited(now=100)
    assert backoff.exhausted


def test_deaths_that_lie_far_apart_are_forgotten() -> None:
    backoff = Backoff(initial_s=1, max_s=30, give_up_after=2, window_s=100)
    assert [backoff.exited(now) for now in (0, 101, 202, 303)] == [1, 1, 1, 1]
    assert not backoff.exhausted


def test_as_many_deaths_as_may_be_configured_do_not_overflow() -> None:
    backoff = Backoff(initial_s=1e6, max_s=30, give_up_after=1000, window_s=1e9)
    assert {backoff.exited(now=0) for _ in range(1000)} == {30}
