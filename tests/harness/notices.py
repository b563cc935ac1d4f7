"""What the receivers got, read as a person would: which alert, firing or resolved, of what, with which links."""

import re
import time
from collections import defaultdict
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import NamedTuple

from tests.harness.waiting import await_that
from txninsightd.tools.receivers import PAGERDUTY, SLACK, Message, read_record

_FIGURE = re.compile(r"-?\d[\d.]*(?:e[+-]\d+)?(?:%|[a-zµ]{1,2})?[.,;:]?")
_OVER = "resolved: "
_TITLE = re.compile(r"\[(?:FIRING:(?P<firing>\d+)|RESOLVED)\] (?P<alert>\w+)(?P<rest>.*)")
_LIST_LINK = re.compile(r"http://[^\s|>]+/api/v1/transactions\?[^\s|>]+")


class Notice(NamedTuple):
    """One message. `group` is the same for all messages of what belongs together; `text` is all that can be read.

    `firing` is how many alerts of the group fire; 0 when all is over. `fires` and `over` are what it says of those that
    fire, and of those that no longer do.
    """

    at: float
    receiver: str
    alert: str
    group: str
    firing: int
    fires: str
    over: str
    text: str

    @property
    def news(self) -> tuple[int, frozenset[str], frozenset[str]]:
        """What makes another message of the group worth sending: which alerts fire, and which no longer do."""
        return self.firing, _without_figures(self.fires), _without_figures(self.over)

    @property
    def resolved(self) -> bool:
        """Whether it says that all is over."""
        return not self.firing

    @property
    def transaction_lists(self) -> list[str]:
        """The links to the daemon's lists of transactions, without repetition."""
        return list(dict.fromkeys(_LIST_LINK.findall(self.text)))

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.at))
        return f"{clock} {self.receiver} {'resolved' if self.resolved else 'firing'} {self.alert}: {self.text[:300]!r}"


class Inbox:
    """The receivers' record. A wait gives up after `within_s`."""

    def __init__(self, record: Path, within_s: float) -> None:
        self._record = record
        self._within_s = within_s

    def notices(self) -> list[Notice]:
        """All messages so far, oldest first."""
        return [_read(message) for message in read_record(self._record)]

    def await_firing(self, alert: str, mark: str, since: float) -> Notice:
        """The first message after `since` (epoch seconds) that says that this alert fires, with `mark` in its text."""
        return self._await_first(lambda n: n.alert == alert and n.at > since and mark in n.fires, alert, mark)

    def await_over(self, fired: Notice, mark: str) -> Notice:
        """The first message after `fired` that says that the one with `mark` is over; others of its group may go on."""

        def is_it(notice: Notice) -> bool:
            if notice.alert != fired.alert or notice.at <= fired.at:
                return False
            all_over = notice.resolved and notice.group == fired.group
            return all_over or (mark in notice.over and mark not in notice.fires)

        return self._await_first(is_it, f"the end of {fired.alert}", mark)

    def _await_first(self, is_it: Callable[[Notice], bool], what: str, mark: str) -> Notice:
        found: list[Notice] = []

        def has_come() -> bool:
            found[:] = filter(is_it, self.notices())
            return bool(found)

        def what_came() -> str:
            return "\n".join(["what came:", *map(str, self.notices())])

        await_that(has_come, f"{what} with {mark!r} is told", self._within_s, output=what_came)
        return found[0]


def by_group(notices: list[Notice]) -> dict[str, list[Notice]]:
    """The messages of each group, oldest first."""
    groups: dict[str, list[Notice]] = defaultdict(list)
    for notice in notices:
        groups[notice.group].append(notice)
    return groups


def unresolved(notices: list[Notice]) -> set[str]:
    """The groups that fire according to their last message."""
    return {group for group, of_group in by_group(notices).items() if not of_group[-1].resolved}


def _read(message: Message) -> Notice:
    notice = _read_page(message) if message.receiver == PAGERDUTY else _read_ticket(message)
    assert notice.resolved == message.is_resolved, notice
    return notice


def _read_page(message: Message) -> Notice:
    body = message.body
    payload, details = body["payload"], body["payload"]["custom_details"]
    links = [link["href"] for link in body.get("links") or []]
    text = "\n".join([payload["summary"], payload["source"], *details.values(), *links])
    fires, over, firing = details["firing"], details["resolved"], int(details["num_firing"])
    return Notice(message.at, PAGERDUTY, payload["class"], body["dedup_key"], firing, fires, over, text)


def _read_ticket(message: Message) -> Notice:
    (attachment,) = message.body["attachments"]
    title = _TITLE.fullmatch(attachment["title"])
    assert title is not None, f"what is this about? {attachment['title']!r}"
    lines = [attachment["title"], *attachment["text"].splitlines(), attachment["title_link"]]
    fires, over = ([unescape(line) for line in lines if line.startswith(_OVER) == is_over] for is_over in (False, True))
    firing, group = int(title["firing"] or 0), title["alert"] + title["rest"]
    told = ["\n".join(fires if firing else []), "\n".join(over), "\n".join([*fires, *over])]
    return Notice(message.at, SLACK, title["alert"], group, firing, *told)


def _without_figures(text: str) -> frozenset[str]:
    """The lines without figures, which may differ between two messages on the same alerts."""
    return frozenset(" ".join(w for w in line.split() if not _FIGURE.fullmatch(w)) for line in text.splitlines())
