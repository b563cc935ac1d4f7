"""What the receivers got, read as a person would: which alert, firing or resolved, of whom, with which links."""

import re
import time
from collections import defaultdict
from html import unescape
from pathlib import Path
from typing import NamedTuple

from tests.monitoring.end_to_end.programs import HANG_GUARD_S, LOOK_EVERY_S
from txninsightd.tools.receivers import PAGERDUTY, SLACK, Message, read_record

_TITLE = re.compile(r"\[(?:FIRING:(?P<firing>\d+)|RESOLVED)\] (?P<alert>\w+)(?P<rest>.*)")
_LIST_LINK = re.compile(r"http://[^\s|>]+/api/v1/transactions\?[^\s|>]+")


class Notice(NamedTuple):
    """One message. `group` is the same for all messages of what belongs together; `text` is all that can be read.

    `firing` is how many alerts of the group fire; 0 when all is over.
    """

    at: float
    receiver: str
    alert: str
    group: str
    firing: int
    text: str

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
    """The receivers' record."""

    def __init__(self, record: Path) -> None:
        self._record = record

    def notices(self) -> list[Notice]:
        """All so far, oldest first."""
        return [_read(message) for message in read_record(self._record)]

    def await_notice(self, alert: str, mark: str, resolved: bool, since: float) -> Notice:
        """The first that came after `since` (epoch seconds), of this alert, and has `mark` in its text."""
        deadline = time.monotonic() + HANG_GUARD_S
        while True:
            found = [n for n in self.notices() if n.alert == alert and n.resolved == resolved and n.at > since]
            for notice in found:
                if mark in notice.text:
                    return notice
            assert time.monotonic() < deadline, self._never(alert, mark, resolved)
            time.sleep(LOOK_EVERY_S)

    def _never(self, alert: str, mark: str, resolved: bool) -> str:
        came = "\n".join(map(str, self.notices()))
        return f"{alert} with {mark!r} was never {'resolved' if resolved else 'sent'}; what came:\n{came}"


def by_group(notices: list[Notice]) -> dict[str, list[Notice]]:
    """The messages of each group, oldest first."""
    groups: dict[str, list[Notice]] = defaultdict(list)
    for notice in notices:
        groups[notice.group].append(notice)
    return groups


def unresolved(notices: list[Notice]) -> set[str]:
    """The groups whose last message is that they fire."""
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
    return Notice(message.at, PAGERDUTY, payload["class"], body["dedup_key"], int(details["num_firing"]), text)


def _read_ticket(message: Message) -> Notice:
    (attachment,) = message.body["attachments"]
    title = _TITLE.fullmatch(attachment["title"])
    assert title is not None, f"what is this about? {attachment['title']!r}"
    text = unescape("\n".join([attachment["title"], attachment["text"], attachment["title_link"]]))
    return Notice(message.at, SLACK, title["alert"], title["alert"] + title["rest"], int(title["firing"] or 0), text)
