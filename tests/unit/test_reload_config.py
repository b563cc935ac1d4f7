"""What a reload takes over from the file, what it only names, and that it tells no values."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from tests.harness.json_schema import keys_of
from tests.harness.paths import ROOT
from txninsightd.config import Config, ConfigError, load_config
from txninsightd.config.checking import schema
from txninsightd.config.model import NOT_OF_THE_FILE
from txninsightd.config.reloading import EFFECTS, Effect, effect_of, merge, reload_config
from txninsightd.supervise.current_config import CurrentConfig, unpickled

GUIDE = ROOT / "docs" / "configuration.md"
SHIPPED = ROOT / "conf" / "txninsight.yaml"


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """A reload sets up the log anew."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "txninsight.yaml"


def reload(running: CurrentConfig) -> bytes | None:
    """As the parent does, but for the process of its own."""
    return running.take(running.read())


def write(file: Path, **sections: Any) -> None:
    file.write_text(yaml.safe_dump(sections))


# --- The table --------------------------------------------------------------------------------------------------------


def paths(struct: Any, *above: str) -> list[tuple[str, ...]]:
    """The keys of a config, sections opened up."""
    fields = getattr(struct, "__struct_fields__", None)
    if fields is None or above == ("start",):
        return [above]
    return [
        path for name in fields if name not in NOT_OF_THE_FILE for path in paths(getattr(struct, name), *above, name)
    ]


def test_every_key_takes_effect_at_a_reload_or_at_a_restart() -> None:
    found = {path: effect_of(path) for path in paths(Config())}
    leaves = {name for name in keys_of(schema()) if name.endswith(("_s", "_bytes"))}
    assert leaves <= {path[-1] for path in found}
    assert set(found.values()) == set(Effect)
    with pytest.raises(KeyError):
        effect_of(("no_such_section", "key"))


def test_the_table_names_no_key_that_is_not_there_and_says_nothing_twice() -> None:
    known = {path[:n] for path in paths(Config()) for n in range(1, len(path) + 1)}
    for name, effect in EFFECTS.items():
        path = tuple(name.split("."))
        assert path in known, name
        if len(path) > 1 and path[0] in EFFECTS:
            assert EFFECTS[path[0]] is not effect, f"{name} says what {path[0]} says"
    assert {path[0] for path in known} == set(schema()["properties"])


def test_the_guide_lists_exactly_the_keys_that_need_a_restart() -> None:
    section = GUIDE.read_text().partition("## How do I change it while the daemon runs?")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z_.]+)` \|", section, re.MULTILINE)
    assert rows == [name for name, effect in EFFECTS.items() if effect is Effect.RESTART]
    assert "SIGHUP" in SHIPPED.read_text()


# --- Taking over ------------------------------------------------------------------------------------------------------


def test_live_keys_apply_and_the_others_wait() -> None:
    before = Config()
    file = {
        "stuck": {"idle_after_s": 10},
        "limits": {"lingering": 5, "prefetch_bytes": 1_048_576},
        "state": {"linger_s": 7, "directory": "/elsewhere"},
        "events": {"colocated": True, "future_tolerance_s": 1},
        "topics": ["other"],
        "start": "2h",
        "log": {"level": "debug"},
        "readers": {"monitors": 3},
    }
    result = merged(before, file)
    assert result.applied == [
        "events.future_tolerance_s",
        "state.linger_s",
        "stuck.idle_after_s",
        "limits.lingering",
        "log.level",
    ]
    assert result.needs_restart == [
        "topics",
        "start",
        "readers.monitors",
        "events.colocated",
        "state.directory",
        "limits.prefetch_bytes",
    ]
    config = result.config
    assert (config.stuck.idle_after_s, config.limits.lingering, config.state.linger_s) == (10, 5, 7)
    assert (config.log.level, config.events.future_tolerance_s) == ("debug", 1)
    assert (config.state.directory, config.limits.prefetch_bytes) == (
        before.state.directory,
        before.limits.prefetch_bytes,
    )
    assert (config.topics, config.start, config.readers, config.events.colocated) == (
        before.topics,
        before.start,
        before.readers,
        False,
    )
    again = merged(config, file)
    assert again.applied == []
    assert again.needs_restart == result.needs_restart
    assert merged(config, {}).config == before


def merged(running: Config, sections: dict[str, Any]) -> Any:
    """Merge what a file with these sections says."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "txninsight.yaml"
        write(file, **sections)
        return merge(running, load_config(file, {}))


def test_types_come_change_and_go() -> None:
    before = merged(Config(), {"transaction_types": {"loan": {"idle_after_s": 5}, "order": {"idle_after_s": 9}}}).config
    result = merged(before, {"transaction_types": {"loan": {"idle_after_s": 6}, "pay.x": {"idle_after_s": 1}}})
    assert result.applied == [
        "transaction_types.loan.idle_after_s",
        "transaction_types.order",
        "transaction_types.pay.x",
    ]
    assert list(result.config.transaction_types) == ["loan", "pay.x"]
    assert result.config.transaction_types["loan"].idle_after_s == 6


def test_a_changed_usual_threshold_changes_the_types_that_leave_it_out() -> None:
    before = merged(Config(), {"transaction_types": {"loan": {"idle_after_s": 5}}}).config
    result = merged(before, {"stuck": {"overdue_after_s": 50}, "transaction_types": {"loan": {"idle_after_s": 5}}})
    assert result.applied == ["stuck.overdue_after_s", "transaction_types.loan.overdue_after_s"]


def test_nothing_changed_is_applied_too() -> None:
    assert merged(Config(), {}) == (Config(), [], [])


# --- Reading again ----------------------------------------------------------------------------------------------------


def test_a_bad_file_is_refused_whole_with_a_line_for_each_fault(file: Path) -> None:
    running = CurrentConfig(Config(), file)
    file.write_text("stuck:\n  idle_after_s: 5\nlog:\n  level: loud\nstate:\n  linger: 3\n")
    with structlog.testing.capture_logs() as logged:
        assert reload(running) is None
    assert running.config == Config()
    assert [line["fault"] for line in logged if line["event"] == "config_fault"] == [
        f"{file}:4: log.level: expected one of debug, info, warning, error (found 'loud')",
        f"{file}:6: state.linger: expected a known key, perhaps linger_s (found an unknown one)",
    ]
    assert [line["faults"] for line in logged if line["event"] == "config_refused"] == [2]


def test_each_reload_starts_from_what_the_one_before_came_to(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    running = CurrentConfig(Config(), file)
    for idle_after_s in (5, 6, 6):
        write(file, stuck={"idle_after_s": idle_after_s}, readers={"monitors": 2}, log={"format": "json"})
        packed = reload(running)
        assert packed is not None
        assert unpickled(packed) == running.config
        assert running.config.stuck.idle_after_s == idle_after_s
    logged = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    changed = [line["changed"] for line in logged if line["event"] == "config_applied"]
    assert changed == [["stuck.idle_after_s", "log.format"], ["stuck.idle_after_s"], []]
    waiting = [line["keys"] for line in logged if line["event"] == "config_needs_restart"]
    assert waiting == [["readers.monitors"]] * 3


def test_a_file_that_is_gone_is_refused(file: Path) -> None:
    running = CurrentConfig(Config(), file)
    with structlog.testing.capture_logs() as logged:
        assert reload(running) is None
    reason = f"{file}:1: (file): expected a file to read (No such file or directory)"
    assert [(line["event"], line["reason"]) for line in logged] == [("config_refused", reason)]


def test_secrets_are_compared_but_never_told(file: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    client = {"bootstrap.servers": "${SERVERS}", "sasl.password": "${file:password}", "sasl.username": "me"}
    write(file, kafka={"client": client}, state={"directory": "${DIRECTORY}"}, log={"format": "json"})
    (file.parent / "password").write_text("hunter2\n")
    monkeypatch.setenv("SERVERS", "secret-host:9092")
    monkeypatch.setenv("DIRECTORY", "/secret-place")
    running = CurrentConfig(load_config(file, {"SERVERS": "secret-host:9092", "DIRECTORY": "/secret-place"}), file)
    (file.parent / "password").write_text("hunter3\n")
    monkeypatch.setenv("DIRECTORY", "/secret-other")
    packed = reload(running)
    assert packed is not None
    told = capfd.readouterr().err
    assert "kafka.client.sasl.password" in told
    assert "state.directory" in told
    assert not re.search("hunter|secret-", told)
    config = unpickled(packed)
    assert config == running.config
    assert config.kafka.client["sasl.password"] == "hunter2"
    assert not re.search("hunter|secret-host", repr(config))


def test_what_is_refused_leaves_nothing_half_done(file: Path) -> None:
    write(file, state={"settle_lateness_s": 100, "settle_max_s": 50})
    with pytest.raises(ConfigError, match=r"state.settle_max_s: expected at least 100"):
        reload_config(Config(), file, {})
