"""The values that a snapshot holds, with the bounds that are checked when it is read."""

from typing import Annotated

import msgspec

LATEST_S = 1e17
"""Far beyond the largest timestamp that a Kafka record can have, and far below where floats know no seconds."""

Moment = Annotated[float, msgspec.Meta(le=LATEST_S)]
"""Epoch seconds; minus infinity: never seen."""

Stamp = Annotated[float, msgspec.Meta(ge=-LATEST_S, le=LATEST_S)]
"""Epoch seconds of what has happened."""

Offset = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

OffsetAnswered = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]
"""An offset that a broker named; -1: none yet."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
