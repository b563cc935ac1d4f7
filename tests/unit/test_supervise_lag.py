"""A supervised aggregator that stood still takes in one line after the other: order between views means nothing."""

from tests.harness.core.by_hand import CLOSE, OPEN, STEP_DONE, A, B, cover, discover, ev, side_by_side, sight


def test_a_monitor_far_ahead_of_the_validators_verdicts_makes_nothing_stuck() -> None:
    """A wholly aborted transaction whose verdicts come partition by partition: its step still waits for its own."""
    both = side_by_side(
        discover(1000, A, B),
        sight(A, 2, ev(0, OPEN, 100), ev(1, CLOSE, 102), as_of=900),
        sight(B, 1, ev(0, STEP_DONE, 101), as_of=900),
        cover(A, 0, 3, [], 103, as_of=103),
    )
    assert both.core.stuck == {}
    assert both.core.stuck_changes == []
