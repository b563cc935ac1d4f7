"""Draws docs/lifecycle.md from the tables in txninsightd/core/lifecycle.py (`make docs`).

The arrows are found, not written: every life of up to three events in one partition is evaluated before and after each
thing that can happen to it (an event is sighted, a verdict comes), and each pair of different states is an arrow.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import product

from txninsightd.core.events import Event, Judged
from txninsightd.core.lifecycle import CAUSES, RULES, state_of
from txninsightd.vocabulary import Kind, PartitionRef, Signature, State, Verdict

HEAD = """# The life cycle of a business transaction

<!-- Made by docs/make_lifecycle.py from the tables in txninsightd/core/lifecycle.py. Do not edit. -->

A state is a function of a transaction's events with their verdicts, and of nothing else: not of the order of arrival,
not of a clock. An event's verdict is *pending* until the committed reader has passed its offset; then it is *committed*
if it was delivered, *aborted* if it was not, and *unknown* where the reader could not look. An event *stands* while it
is committed or pending.

## States: the first rule that holds

"""

CAUSES_HEAD = """
## Why it is stuck: the first cause that holds

A cause is laid over a state. Silence is judged only as far as everything was read (`as_of`), so neither lag nor a
broker that does not answer can make a transaction stuck. Partial transactions (their beginning was not read) and
replayed ones never are.

"""

PROMISE = """
## What is promised

Outcome, attempts, figures and anomalies of a transaction are emitted once, when the outcome is final and nothing that
was written before can still be unread. They do not depend on the order in which the views and the partitions are read,
provided that

- every event was appended before the first of its committed or unknown closes was decided;
- (unless `events.colocated`) no event is stamped later than its deciding close's record by `state.settle_lateness_s` or
  more, and each precedes in its partition every record stamped later than that;
- what was tried again after everything before it had been aborted was appended within `state.retry_grace_s` of that
  abort;
- no limit was reached ([what follows then](reliability.md#what-happens-at-a-limit)), and nothing was ended by hand.

In every other history an event may count or be late (`late_event`), but nothing is ever raised from the dead or counted
twice. `tests/core/test_order_of_arrival.py` holds this on random worlds.
"""

NAMES = {Kind.TRANSACTION_OPEN: "an open", Kind.STEP_OPEN: "a step", Kind.TRANSACTION_CLOSE: "a close"}
REF = PartitionRef("t", 0)


def judged(offset: int, kind: Kind, verdict: Verdict) -> Judged:
    """One event of a life in one partition."""
    return Judged(
        Event(float(offset), REF, offset, float(offset), Signature(kind, None, None, None, False, False)), verdict
    )


def lives() -> Iterator[list[Judged]]:
    """Every life of one to three events."""
    for length in (1, 2, 3):
        for kinds in product(NAMES, repeat=length):
            for verdicts in product(Verdict, repeat=length):
                yield [judged(i, k, v) for i, (k, v) in enumerate(zip(kinds, verdicts, strict=True))]


def arrows() -> dict[tuple[State, State], set[str]]:
    """(before, after) -> what happened."""
    found: dict[tuple[State, State], set[str]] = defaultdict(set)
    for life in lives():
        before = state_of(life)
        for kind, name in NAMES.items():
            after = state_of([*life, judged(len(life), kind, Verdict.PENDING)])
            found[before, after].add(f"{name} sighted")
        for i, j in enumerate(life):
            if j.verdict is Verdict.PENDING:
                for verdict in (Verdict.COMMITTED, Verdict.ABORTED, Verdict.UNKNOWN):
                    after = state_of([*life[:i], j._replace(verdict=verdict), *life[i + 1 :]])
                    found[before, after].add(f"{NAMES[Kind(j.kind)]} {verdict.value}")
    return {pair: happened for pair, happened in found.items() if pair[0] is not pair[1]}


def document() -> str:
    """The whole page."""
    lines = [HEAD + "| # | condition | state |", "|---|---|---|"]
    lines += [f"| {i} | {rule.condition} | {rule.state.value} |" for i, rule in enumerate(RULES, 1)]
    lines += ["", "```mermaid", "stateDiagram-v2", "    [*] --> open: an open or a step sighted first"]
    lines.append("    [*] --> tentatively_closed: a close sighted first")
    for (before, after), happened in sorted(arrows().items()):
        lines.append(f"    {before.value} --> {after.value}: {', '.join(sorted(happened))}")
    lines += ["```", CAUSES_HEAD + "| cause | holds when |", "|---|---|"]
    lines += [f"| {rule.cause.value} | {rule.condition} |" for rule in CAUSES]
    return "\n".join(lines) + "\n" + PROMISE


if __name__ == "__main__":
    print(document(), end="")
