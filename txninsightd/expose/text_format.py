"""Text forms of event kinds, times and log positions."""

from datetime import UTC, datetime

from txninsightd.core.events import Event
from txninsightd.visible_text import visible
from txninsightd.vocabulary import KIND_WORDS

_WORDS = {int(kind): word for word, kind in KIND_WORDS.items()}


def kind_name(kind: int) -> str:
    """The kind's name as events spell it."""
    return _WORDS[kind]


def format_time(seconds: float) -> str:
    """Epoch seconds as date and time. A timestamp that no calendar holds stays a number."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s after 1970"


def position_of(event: Event) -> str:
    """An event's topic, partition and offset."""
    return f"topic {event.ref.topic}, partition {event.ref.partition}, offset {event.offset}"


def describe_event(event: Event) -> str:
    """An event's kind, step, position and timestamp."""
    step = f" '{visible(event.signature.step)}'" if event.signature.step else ""
    return f"{kind_name(event.signature.kind)}{step} at {position_of(event)} ({format_time(event.ts)})"
