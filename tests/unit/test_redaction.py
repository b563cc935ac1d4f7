"""Redaction of texts: what is known to be secret, whole and in parts, and what says of itself that it is."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from txninsightd import logs, redaction
from txninsightd.redaction import Redaction, without_marked

SECRET = "hunter2-AND-more"


@pytest.fixture
def hidden() -> Iterator[None]:
    """The secret is hidden in this process."""
    redaction.hide([SECRET])
    yield
    redaction.hide([])
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=hunter2 x", "password=*** x"),
        ('org.x required username="u" password="hun ter2";', 'org.x required username="u" password=***;'),
        ("x password='hun;ter2' y", "x password=*** y"),
        (r"password=\"hun \"", "password=***"),
        ('{"sasl.password": "hunter2"}', '{"sasl.password": ***}'),
        ("client_secret: hunter2", "client_secret: ***"),
        ("sasl.password:hunter2", "sasl.password:***"),
        ("API-Key=hunter2&x=1 y", "API-Key=*** y"),
        ("Authorization: Bearer hunter2hunter2", "Authorization: Bearer ***"),
        ("Authorization: basic aHVudGVyMg==", "Authorization: basic ***"),
        ("https://me:hun/ter@2@host:1/path", "https://***@host:1/path"),
        ("amqp://hunter2@host", "amqp://***@host"),
        ("a -----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY----- b", "a *** b"),
        ("-----BEGIN PRIVATE KEY----- hunter2 (cut", "***"),
    ],
)
def test_what_says_that_it_is_a_secret_is_hidden(text: str, shown: str) -> None:
    assert without_marked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "kafka.client.sasl.password: expected a text (found nothing)",
        "unexpected token at 3",
        "http://host:9840/readyz and a@b",
        "the key of order-17 has no password",
        "sasl_ssl://broker-1:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert without_marked(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f'Invalid value "{SECRET}" for x', 'Invalid value "***" for x'),
        (f"x{SECRET}y{SECRET}", "x***y***"),
        ("cut: hunter2-AND-m", "cut: ***"),
        ("the end: er2-AND-more.", "the end: ***."),
        ("sasl://broker-2:9092/1: failed", "sasl://***/1: failed"),
        ("info=info", "***=***"),
        ("information", "information"),
        ("a 9 of 9", "a 9 of 9"),
    ],
)
def test_known_values_are_hidden_whole_in_words_and_in_parts(text: str, shown: str) -> None:
    assert Redaction([SECRET, "broker-1:9092,broker-2:9092", "info", "9", ""]).clean(text) == shown


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        ('required username="u" password="Known-Secret";', "failed: password=OtherSecret1", "failed: ***=***"),
        ("pa\x1bss\nword99", "ValueError('pa\\x1bss\\nword99')", "ValueError('***')"),
        ("Tr0ub\\4dor&3", "error='Tr0ub\\\\4dor&3'", "error='***'"),
        ("", "PASSWORD : hunter22", "PASSWORD : ***"),
        ("", "pass=hunter22 access_key=xyz99", "pass=*** access_key=***"),
        ("", "password=a,b;c&d", "password=***"),
    ],
)
def test_what_is_known_and_what_is_marked_are_looked_for_in_the_same_text(value: str, text: str, shown: str) -> None:
    assert Redaction([value]).clean(text) == shown


secrets = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@settings(max_examples=150)
@given(values=st.lists(secrets, max_size=3), around=st.lists(secrets, min_size=2, max_size=2), data=st.data())
def test_no_part_of_a_known_value_is_left(values: list[str], around: list[str], data: st.DataObject) -> None:
    """Neither the whole nor twelve characters of it, wherever it stands and wherever it was cut."""
    inside = data.draw(st.sampled_from(values)) if values else ""
    begin = data.draw(st.integers(0, len(inside)))
    shown = Redaction(values).clean(around[0] + inside[begin : data.draw(st.integers(begin, len(inside)))] + around[1])
    for value in values:
        for at in range(len(value) - 11):
            assert value[at : at + 12] not in shown.replace("***", "\0")


@settings(max_examples=100)
@given(text=st.text(max_size=200), values=st.lists(secrets, max_size=3))
def test_what_is_left_is_of_the_text(text: str, values: list[str]) -> None:
    left = iter(text)
    for kept in Redaction(values).clean(text).split("***"):
        assert all(character in left for character in kept)


def test_a_value_that_repeats_itself_is_found_without_much_work() -> None:
    assert Redaction(["x" * 100_000]).clean("y" + "x" * 5000) == "y***"


# --- In a process -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hidden")
def test_log_lines_show_no_secret(capfd: pytest.CaptureFixture[str]) -> None:
    logs.setup("debug", "json")  # to the standard error of this test
    log = structlog.get_logger()
    fields = {"text": f"<{SECRET}>", "nested": {"a": [SECRET, 7, None]}, "other": ValueError(SECRET), "number": 1.5}
    log.warning("something", **fields)
    try:
        raise ValueError(f"of {SECRET}") from KeyError(SECRET)
    except ValueError:
        log.exception("failed")
    first, second = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert first["text"] == "<***>"
    assert first["nested"] == {"a": ["***", 7, None]}
    assert (first["other"], first["number"], first["event"]) == ("***", 1.5, "something")
    assert "ValueError: of ***" in second["exception"]
    assert SECRET not in second["exception"]


FAILING = f"""
import threading
from txninsightd import logs, redaction, standard_streams
standard_streams.take_over()
logs.setup("info", "json")
redaction.hide([{SECRET!r}])
thread = threading.Thread(target=lambda: {{}}[{SECRET!r} + " in a thread"])
thread.start()
thread.join()
raise RuntimeError({SECRET!r} + " in the process")
"""


def test_tracebacks_show_no_secret() -> None:
    # From standard input, so that the traceback has no lines of source.
    done = subprocess.run([sys.executable], input=FAILING, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert SECRET not in done.stderr
    assert "KeyError: '*** in a thread'" in done.stderr
    assert "RuntimeError: *** in the process" in done.stderr
