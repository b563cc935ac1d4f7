"""txninsight-replay where no broker is needed: its options, and what it refuses before it asks for one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from txninsightd import __version__
from txninsightd.tools import replay
from txninsightd.tools.replaying import cluster
from txninsightd.tools.replaying.cluster import Refusal, client_properties

NO_BROKER = "127.0.0.1:1"
GOOD = {"at": 1, "producer": "p", "topic": "t", "value": {}}


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWER_TIMEOUT_S", 0.2)


def written(folder: Path, *lines: Any) -> str:
    file = folder / "events.jsonl"
    file.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return str(file)


def test_no_broker_is_a_clear_refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main([written(tmp_path, GOOD), "--bootstrap", NO_BROKER]) == 2
    assert f"no broker answers at {NO_BROKER}" in capsys.readouterr().err


def test_a_secret_behind_the_wrong_name_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    properties = tmp_path / "client.properties"
    properties.write_text("sasl.username=orders\nsecurity.protocol=hunter2secret\n")
    ran = replay.main([written(tmp_path, GOOD), "--bootstrap", NO_BROKER, "--client-config", str(properties)])
    shown = capsys.readouterr()
    assert ran == 2
    assert "security.protocol" in shown.err
    assert "***" in shown.err
    assert "hunter2" not in shown.err + shown.out


def test_strict_refuses_bad_lines_before_it_asks_for_a_broker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, GOOD, "oops\n", {"at": 2, "producer": "p"}, {"at": 3, "producer": "q", "kafka": "commit"})
    assert replay.main([file, "--bootstrap", NO_BROKER, "--strict"]) == 2
    said = capsys.readouterr().err
    assert "line 2: not JSON" in said
    assert "line 3: neither `topic`" in said
    assert "line 4: commit, but 'q' has no open Kafka transaction" in said
    assert "3 of 4 lines are bad" in said
    assert "--strict was given" in said
    assert "no broker" not in said


def test_without_strict_bad_lines_are_named_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main([written(tmp_path, "oops\n", GOOD), "--bootstrap", NO_BROKER]) == 2
    said = capsys.readouterr().err
    assert "1 of 2 lines are bad: skipped" in said
    assert "no broker answers" in said


@pytest.mark.parametrize("lines", [[], ["\n"], ["oops\n"], [{"header": {}}]])
def test_nothing_to_publish(tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[Any]) -> None:
    assert replay.main([written(tmp_path, *lines), "--bootstrap", NO_BROKER]) == 2
    assert "has no line that can be published" in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main([str(tmp_path / "none.jsonl"), "--bootstrap", NO_BROKER]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "required: --bootstrap"),
        (["--speed", "0"], "--speed: expected a number greater than 0, or max (found 0)"),
        (["--speed", "fast"], "--speed: expected a number greater than 0, or max (found fast)"),
        (["--speed", "nan"], "--speed: expected a number greater than 0, or max (found nan)"),
        (["--partitions", "0"], "--partitions: expected a whole number of at least 1 (found 0)"),
        (["--partitions", "2.5"], "--partitions: expected a whole number of at least 1 (found 2.5)"),
        (["--partitions", "inf"], "--partitions: expected a whole number of at least 1 (found inf)"),
        (["--transaction-timeout", "0.5"], "expected a number of seconds, at least 1 (found 0.5)"),
        (["--transaction-timeout", "1h"], "expected a number of seconds, at least 1 (found 1h)"),
        (["--keep-time", "--rebase", "now"], "not allowed with argument"),
    ],
)
def test_wrong_options_are_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    bootstrap = ["--bootstrap", NO_BROKER] if options else []
    with pytest.raises(SystemExit) as ended:
        replay.main([written(tmp_path, GOOD), *bootstrap, *options])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        replay.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"txninsight-replay {__version__}\n"


def test_help_tells_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        replay.main(["--help"])
    said = capsys.readouterr().out
    for option in ("--speed", "--rebase", "--keep-time", "--create-topics", "--strict", "--transaction-timeout"):
        assert option in said


def test_client_properties_are_key_and_value(tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text("# a comment\n\nsasl.password=a=b # not a comment\n ssl.ca.location = /ca.pem \n")
    assert client_properties("host:1", file) == {
        "bootstrap.servers": "host:1",
        "sasl.password": "a=b # not a comment",
        "ssl.ca.location": "/ca.pem",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [("a=b\nc\n", "line 2"), ("=b\n", "line 1"), ("transactional.id=x\n", "--transactional-id-prefix")],
)
def test_properties_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "client.properties"
    file.write_text(text)
    with pytest.raises(Refusal, match=says):
        client_properties("host:1", file)


def test_properties_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="cannot be read"):
        client_properties("host:1", tmp_path / "none")


def test_a_child_without_its_parent_ends_by_itself() -> None:
    command = [sys.executable, "-m", "txninsightd.tools.replaying.crashing_producer"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
