"""How kinds, moments and places are written for people."""

from datetime import UTC, datetime

from txninsightd.core.events import Event
from txninsightd.vocabulary import KIND_WORDS

_WORDS = {int(kind): word for word, kind in KIND_WORDS.items()}


def kind_word(kind: int) -> str:
    """The kind as events spell it."""
    return _WORDS[kind]


def moment(seconds: float) -> str:
    """Epoch seconds as date and time; what no calendar holds stays a number (a producer may stamp anything)."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s after 1970"


def where(event: Event) -> str:
    """Topic, partition and offset of an event."""
    return f"topic {event.ref.topic}, partition {event.ref.partition}, offset {event.offset}"


def what_and_where(event: Event) -> str:
    """An event's kind, step and place, and when it was stamped."""
    step = f" '{event.signature.step}'" if event.signature.step else ""
    return f"{kind_word(event.signature.kind)}{step} at {where(event)} ({moment(event.ts)})"
