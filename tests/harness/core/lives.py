"""Lives written in words, for the ledger and for the plain model.

Events are written as `kind verdict @partition:offset ts`: `o` open, `s`/`d` step opened/done, `c` close; `+` committed,
`-` aborted, `?` unknown, `~` pending. `c- @a1:7 20` is an aborted close in topic a, partition 1, offset 7, ts 20.
"""

from collections.abc import Sequence

from hypothesis import strategies as st

from tests.harness.core import reference
from txninsightd.core.events import Event, Judged
from txninsightd.vocabulary import Kind, PartitionRef, Signature, Verdict

KINDS = {"o": Kind.TRANSACTION_OPEN, "s": Kind.STEP_OPEN, "d": Kind.STEP_DONE, "c": Kind.TRANSACTION_CLOSE}
VERDICTS = {"+": Verdict.COMMITTED, "-": Verdict.ABORTED, "?": Verdict.UNKNOWN, "~": Verdict.PENDING}


def life(*words: str) -> list[Judged]:
    """A life from its events in words; verdicts were given at 100, but for those that pend."""
    return [judged(word) for word in words]


def judged(word: str) -> Judged:
    what, where, ts, *more = word.split()
    ref, offset = where.removeprefix("@").split(":")
    kind, verdict = KINDS[what[0]], VERDICTS[what[1]]
    signature = Signature(int(kind), what[2:] or None, None, None, False, False)
    decided_at = 0.0 if verdict is Verdict.PENDING else 100.0
    record_ts = float(more[0]) if more else float(ts)
    return Judged(
        Event(float(ts), PartitionRef(ref[0], int(ref[1:] or 0)), int(offset), record_ts, signature),
        verdict,
        decided_at,
    )


def plainly(events: Sequence[Judged]) -> list[reference.Seen]:
    """The same life for the plain model."""
    return [
        reference.Seen(
            reference.Sighting(j.event.ref, j.event.offset, "t", j.event.signature, j.event.ts, j.event.record_ts, 0.0),
            j.verdict,
            j.decided_at,
        )
        for j in events
    ]


words = st.builds(
    "{}{}{} @{}:{} {}".format,
    st.sampled_from("osdc"),
    st.sampled_from("+-?~"),
    st.sampled_from(["", "x"]),
    st.sampled_from("ab"),
    st.integers(0, 6),
    st.integers(0, 4),
)
