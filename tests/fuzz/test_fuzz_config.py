"""Config files: any text is good or has its faults named, a line each; and what is good can be run.

Never a traceback, never another exit code, never more work than the file's size explains (aliases!), and never a word
of a secret. Texts are made of valid files by splicing and flipping, trees by putting any value in any place.
"""

import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from tests.harness.core.worlds import Chooser
from tests.harness.mutation import Edit, edited, mutated, some_edits
from tests.harness.paths import ROOT
from tests.harness.properties import choosers, fuzz
from txninsightd import cli
from txninsightd.config import Config, ConfigError, check_config, load_config, load_state_directory
from txninsightd.config.reloading import merge
from txninsightd.core.decoding import Decoder
from txninsightd.core.figures import Figures

FOUND = Path(__file__).parent / "found"
SECRET = "a-word-that-must-not-be-seen"
ENVIRON = {"SECRET": SECRET, "PORT": "9092", "EMPTY": "", "LINES": f"{SECRET}\n\x1b[31m", "OPEN": "${SECRET}"}

LARGE = """
kafka: {client: {bootstrap.servers: "${PORT}:1", sasl.password: "${SECRET}", ssl.key.password: "x${file:secret}"}}
topics:
  - orders
  - {name: pay, mapping: {event: meta.what, txn_id: {key: true}, ts: meta.at, ts_unit: ms, kinds: {Done: step_done}}}
  - {name: ship, mapping: {event: {const: step_open}, txn_id: {header: id}, step: {path: a.b}, status: {const: x}}}
  - {pattern: "shop[.].*", exclude: "x+"}
start: 15m
readers: {monitors: 2, validators: 1}
http: {listen: "127.0.0.1:9840"}
events: {colocated: false, future_tolerance_s: 60}
state: &state {directory: /tmp/x, linger_s: 9e2, settle_lateness_s: 60, settle_max_s: 600, remember_s: .5}
stuck: &stuck {idle_after_s: 300, overdue_after_s: 3600.5}
transaction_types: {order: *stuck, payment: {commit_pending_after_s: 1}}
metrics: {duration_buckets_s: [0.1, 1, 10]}
limits: {value_bytes: 1048576, label_values: 200, open_transactions: 10}
log: {level: info, format: json}
"""
WORDS = [
    b"${",
    b"$${",
    b"${SECRET}",
    b"${NOT_SET}",
    b"${file:secret}",
    b"${file:/dev/zero}",
    b"${file:..}",
    b"${file:\\0}",
    b"&a ",
    b"*a",
    b"*state",
    b"<<: *stuck",
    b"!!python/object/apply:os.system [x]",
    b"!!binary x",
    b"? [a]",
    b"- ",
    b"\n",
    b"---\n",
    b"...\n",
    b"%YAML 9.9\n",
    b"\t",
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\x85",
    b"\xe2\x80\xa8",
    b"~",
    b".nan",
    b"-.inf",
    b"0x1F",
    b"010",
    b"1e999",
    b"9" * 5000,
    b"'",
    b'"',
    b"|\n",
    b">-\n",
    b"[" * 60,
    b"{a: " * 60,
    b"2026-01-01",
    b"yes",
    b"null",
    b'"\\ud800"',
    b'"\\U00110000"',
    b"!!int x",
    b"!!float 1e5",
    b"!!set {a}",
    b"{}",
    b"[]",
]


@cache
def texts() -> list[bytes]:
    return [LARGE.encode(), (ROOT / "conf" / "txninsight.yaml").read_bytes()]


def judged(content: bytes) -> Config | None:
    """Check everything that holds of any file; gives the config if it is good."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "secret").write_text(f"{SECRET}\n")
        path = folder / "txninsight.yaml"
        path.write_bytes(content)
        lines, code = check_config(path, ENVIRON)
        config, refusal = loaded(path)
        if refusal is not None:
            last_line = len(content.decode(errors="replace").splitlines()) + 1
            assert str(refusal) == "\n".join(lines)
            assert all(1 <= problem.line <= last_line for problem in refusal.problems)
        assert (code, config is None) in ((0, False), (2, True))
        assert lines
        assert all(line.startswith(f"{path}:") and line.isprintable() for line in lines)
        assert SECRET not in "".join(lines)
        assert_directory(path, config)
    return config


def loaded(path: Path) -> tuple[Config | None, ConfigError | None]:
    try:
        return load_config(path, ENVIRON), None
    except ConfigError as refusal:
        return None, refusal


def assert_directory(path: Path, config: Config | None) -> None:
    try:
        directory = load_state_directory(path, ENVIRON)
    except ConfigError:
        directory = ""
    assert isinstance(directory, str)
    assert config is None or directory == config.state.directory


def can_be_run(config: Config) -> None:
    """What the processes make of it when they start, and a reload."""
    for topic in config.topics:
        if topic.mapping is not None:
            Decoder(topic.mapping, config.limits.value_bytes, config.events.future_tolerance_s)
    Figures(config.metrics.duration_buckets_s, config.limits.label_values, config.transaction_types)
    assert merge(config, config).config == config
    merge(Config(), config)
    assert SECRET not in repr(config)


def holds(content: bytes) -> None:
    config = judged(content)
    if config is not None:
        can_be_run(config)


@fuzz(120, 2500, c=choosers())
def test_changed_text(c: Chooser) -> None:
    holds(mutated(c, texts()[0], texts(), WORDS))


@fuzz(60, 5000, content=st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace")))
def test_any_text(content: bytes) -> None:
    holds(content)


@fuzz(60, 5000, text=st.text("{}[]:,&*!|>'\"#%@-? \n\tab${}1.", max_size=60))
def test_any_marks(text: str) -> None:
    holds(text.encode())


@fuzz(80, 2500, c=choosers())
def test_changed_values(c: Chooser) -> None:
    tree = edited(yaml.safe_load(LARGE), some_edits(c, yaml.safe_load(LARGE)))
    holds(yaml.safe_dump(tree, allow_unicode=True).encode())


names = st.sampled_from(["a", "b", "event", "ts", "txn_id", 'a"', "a\\", "é", "\x01", "\x7f"])
paths = st.lists(names, min_size=1, max_size=3).map(".".join) | st.just(".".join("a" * 150))
sources = paths | st.builds(lambda path: {"path": path}, paths) | st.just({"const": "x" * 2000})


@fuzz(
    80,
    4000,
    mapping=st.dictionaries(st.sampled_from(["event", "txn_id", "ts", "txn_type", "step", "status"]), sources),
)
def test_a_good_mapping_can_be_read_by(mapping: dict[str, Any]) -> None:
    holds(yaml.safe_dump({"topics": [{"name": "a", "mapping": mapping}]}).encode())


inside = st.text("SECRETfile:/.\\0\n }{$é_1", max_size=12) | st.sampled_from(
    ["SECRET", "LINES", "OPEN", "file:secret", "EMPTY"]
)


@fuzz(80, 5000, parts=st.lists(inside, min_size=1, max_size=3), key=st.sampled_from(["listen", "topics", "password"]))
def test_any_substitution(parts: list[str], key: str) -> None:
    value = "x".join(f"${{{part}}}" for part in parts)
    tree = {"listen": {"http": {"listen": value}}, "topics": {"topics": [value]}}.get(
        key, {"kafka": {"client": {"bootstrap.servers": "a:1", "sasl.password": value}}}
    )
    holds(yaml.safe_dump(tree).encode())


# --- By hand ----------------------------------------------------------------------------------------------------------


def laughs(kind: str) -> str:
    """A billion, in a kilobyte."""
    begin, end, item = ("[", "]", "*{}") if kind == "lists" else ("{", "}", "k{}: *{}")
    lines = ["a0: &a0 [lol]" if kind == "lists" else "a0: &a0 {lol: 1}"]
    for i in range(1, 10):
        inner = ", ".join(item.format(f"a{i - 1}") if kind == "lists" else f"k{n}: *a{i - 1}" for n in range(10))
        lines.append(f"a{i}: &a{i} {begin}{inner}{end}")
    return "\n".join(lines)


BY_HAND = {
    "a billion laughs": laughs("lists").encode(),
    "a billion laughing keys": laughs("mappings").encode(),
    "an alias in itself": b"a: &a [*a]",
    "deep lists": b"topics: " + b"[" * 5000 + b"]" * 5000,
    "deep mappings": b"{a: " * 5000 + b"}" * 5000,
    "deep blocks": b"".join(b" " * i + b"a:\n" for i in range(400)),
    "very many keys": b"".join(b"k%d: 1\n" % i for i in range(5000)),
    "a very long key": b"k" * 100_000 + b": 1",
    "a very long number": b"limits: {value_bytes: " + b"9" * 10_000 + b"}",
    "UTF-16": "start: latest".encode("utf-16"),
    "UTF-32": "start: latest".encode("utf-32"),
    "Latin-1": "topics: [\xe4]".encode("latin-1"),
    "NUL": b"start: \x00latest",
    "another line break": "start: latest\u2028x: 1".encode(),
    "a pattern that is slow": b'topics: [{pattern: "(a+)+$"}]',
    "a pattern that is large": b'topics: [{pattern: "((a{1000}){1000}){1000}"}]',
    "two documents": b"start: latest\n---\nstart: earliest\n",
}


@pytest.mark.parametrize("content", BY_HAND.values(), ids=BY_HAND.keys())
def test_by_hand(content: bytes) -> None:
    holds(content)


SEEDS = {path.stem: path.read_bytes() for path in sorted(FOUND.glob("config-*.yaml"))}


@pytest.mark.parametrize("content", SEEDS.values(), ids=SEEDS.keys())
def test_what_was_found_once(content: bytes) -> None:
    assert judged(content) is None


def test_paths_that_no_decoder_can_be_made_of_are_named(tmp_path: Path) -> None:
    file = tmp_path / "txninsight.yaml"
    file.write_text("topics: [{name: a, mapping: {ts: event.at, step: {path: 'x\\y'}}}]")
    lines, code = check_config(file, {})
    assert code == 2
    assert [line.removeprefix(f"{file}:1: topics[0].mapping.") for line in lines] == [
        "event: expected the path of a value (found that of an object, as topics[0].mapping.ts says)",
        "step.path: expected a path without quotes, backslashes and control characters (found one)",
    ]


def test_the_command_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "txninsight.yaml"
    for content in [LARGE.encode(), *SEEDS.values(), BY_HAND["UTF-16"], BY_HAND["another line break"]]:
        file.write_bytes(content)
        code = cli.run(["--config", str(file), "--check-config"])
        said = capsys.readouterr()
        lines = "\n".join(check_config(file, os.environ)[0]) + "\n"
        assert (code, said.out, said.err) in ((0, lines, ""), (2, "", lines))


def test_edits_reach_what_they_name() -> None:
    tree = yaml.safe_load(LARGE)
    assert edited(tree, [Edit(("topics", 0), "set", 7)])["topics"][0] == 7
