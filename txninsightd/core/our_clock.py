"""By which clock the moments were learnt that are not those of events: how far was seen, when a verdict was read.

The wall clock of the daemon's host may be wrong, and set right later. Within one boot of the machine it is known how
far it was set, since there is a clock beside it that never is: such a moment is then what it was, plus the step.
"""

from typing import NamedTuple


class OurClock(NamedTuple):
    """`boot_id` tells one boot from another ("": not known); `booted_at`: its moment by the wall clock."""

    boot_id: str = ""
    booted_at: float = 0.0

    def stepped_s(self, since: "OurClock") -> float | None:
        """How far the wall clock was stepped since that reading; None where that cannot be told."""
        if not self.boot_id or self.boot_id != since.boot_id:
            return None
        return self.booted_at - since.booted_at


NOT_KNOWN = OurClock()
