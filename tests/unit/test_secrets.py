"""A secret put in by each way at each key of the config: nothing that the daemon prints or answers shows it.

The ways: filled in from the environment or a file, whole or as a part of the text, and written into the file itself
where the key or the text says that it is a secret.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import structlog
import yaml
from confluent_kafka import KafkaException
from hypothesis import strategies as st

from tests.harness.daemon import Daemon
from tests.harness.http import free_port
from tests.harness.json_schema import keys_of
from tests.harness.properties import fuzz
from txninsightd import logs, redaction
from txninsightd.cluster.client_settings import UnusableClient, refusals_named
from txninsightd.cluster.clients import ClusterClients
from txninsightd.config import check_config, load_config
from txninsightd.config.checking import schema
from txninsightd.config.model import SHOWN_TEXTS
from txninsightd.supervise.current_config import CurrentConfig
from txninsightd.supervise.exit_codes import EXIT_UNUSABLE

MAPPING = {"event": "a.b", "txn_id": "c", "ts": "d", "txn_type": "e", "step": "f", "status": "g"}
PLACES: dict[str, Any] = {
    "http.listen": lambda x: {"http": {"listen": x}},
    "http.listen, its host": lambda x: {"http": {"listen": f"{x}:9840"}},
    "state.directory": lambda x: {"state": {"directory": x}},
    "state.directory, its end": lambda x: {"state": {"directory": f"/tmp/{x}"}},
    "start": lambda x: {"start": x},
    "log.level": lambda x: {"log": {"level": x}},
    "log.format": lambda x: {"log": {"format": x}},
    "a number": lambda x: {"stuck": {"idle_after_s": x}},
    "a boolean": lambda x: {"events": {"colocated": x}},
    "a section": lambda x: {"supervise": x},
    "an unknown key": lambda x: {"nonsense": {"deep": [x]}},
    "topics": lambda x: {"topics": x},
    "a topic": lambda x: {"topics": [x]},
    "topics.name": lambda x: {"topics": [{"name": x}]},
    "topics.pattern": lambda x: {"topics": [{"pattern": x, "exclude": [x]}]},
    "a pattern that does not compile": lambda x: {"topics": [{"pattern": f"({x}"}]},
    "two topics of one name": lambda x: {"topics": [x, {"name": x}]},
    "topics.format": lambda x: {"topics": [{"name": "a", "format": x}]},
    "topics.mapping.ts_unit": lambda x: {"topics": [{"name": "a", "mapping": {"ts_unit": x}}]},
    "topics.mapping.kinds": lambda x: {"topics": [{"name": "a", "mapping": {"kinds": {"Done": x}}}]},
    "topics.mapping.txn_id.header": lambda x: {"topics": [{"name": "a", "mapping": {"txn_id": {"header": x}}}]},
    "topics.mapping.event.const": lambda x: {"topics": [{"name": "a", "mapping": {"event": {"const": x}}}]},
    "transaction_types": lambda x: {"transaction_types": {"a": x}},
    "metrics": lambda x: {"metrics": {"duration_buckets_s": [1, x]}},
}
for _field in MAPPING:
    PLACES[f"topics.mapping.{_field}"] = lambda x, f=_field: {"topics": [{"name": "a", "mapping": MAPPING | {f: x}}]}
    PLACES[f"topics.mapping.{_field}.path"] = lambda x, f=_field: {
        "topics": [{"name": "a", "mapping": {f: {"path": x}}}]
    }

PROPERTIES = [
    *sorted(SHOWN_TEXTS - {"bootstrap.servers"}),
    "auto.offset.reset",
    "isolation.level",
    "no.such.property",
    "enable.ssl.certificate.verification",
    "message.max.bytes",
    "partition.assignment.strategy",
    "plugin.library.paths",
    "sasl.jaas.config",
    "sasl.kerberos.keytab",
    "sasl.kerberos.kinit.cmd",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.token.endpoint.url",
    "sasl.password",
    "socket.timeout.ms",
    "ssl.ca.pem",
    "ssl.certificate.pem",
    "ssl.curves.list",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.sigalgs.list",
]

WAYS = ["${S}", "x-${S}", "${file:s}", "${file:s}/${S}"]
# Of letters that stand together nowhere else.
secrets = st.text("QXZJ", min_size=6, max_size=24) | st.builds(
    "{}{}{}".format, st.text("QXZJ", min_size=6), st.sampled_from("-.:/ ;,@\"'[{\\é"), st.text("QXZJ", min_size=6)
)


FILLED_IN = [make(way) for make in PLACES.values() for way in WAYS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture
def own_redaction() -> Iterator[None]:
    """This process hides what a test told it to, until the test ends."""
    yield
    redaction.hide([])
    structlog.reset_defaults()


def client(name: str, value: Any) -> dict[str, Any]:
    return {"kafka": {"client": {"bootstrap.servers": "127.0.0.1:1", name: value}}}


FILLED_IN += [client(name, way) for name in PROPERTIES for way in WAYS]


def shows(secret: str, text: str) -> bool:
    """Whether any six characters of the secret are in the text."""
    return any(secret[at : at + 6] in text for at in range(len(secret) - 5))


def everything_said(file: Path, environ: dict[str, str]) -> list[str]:
    """What `--check-config`, the start, `repr` and a reload make of the file."""
    said, code = check_config(file, environ)
    if code == 0:
        config = load_config(file, environ)
        said += [repr(config), json.dumps(config.redacted()), *map(repr, config.topics)]
    return said


def test_no_key_shows_what_was_filled_in(folder: Path) -> None:
    """Each way at each key."""
    for make in FILLED_IN:
        filled_in_is_not_shown(folder, make, "QXZJ-4711-QXZJQXZJ")


@fuzz(100, 5000, secret=secrets, tree=st.sampled_from(FILLED_IN))
def test_no_key_shows_whatever_was_filled_in(secret: str, tree: Any) -> None:
    with TemporaryDirectory() as name:
        filled_in_is_not_shown(Path(name), tree, secret)


def filled_in_is_not_shown(folder: Path, tree: Any, secret: str) -> None:
    (folder / "s").write_text(f"{secret}\n")
    file = folder / "any.yaml"
    file.write_text(yaml.safe_dump(tree))
    for text in everything_said(file, {"S": secret}):
        assert not shows(secret, text), (tree, text)


def test_the_places_are_all_keys_with_texts() -> None:
    texts = {"name", "pattern", "exclude", "format", "ts_unit", "kinds", "listen", "directory", "level", "start"}
    assert texts | set(MAPPING) <= keys_of(schema())
    named = " ".join(PLACES)
    assert all(name in named for name in (texts | set(MAPPING)) - {"exclude"})


def test_no_key_shows_what_says_that_it_is_a_secret(folder: Path) -> None:
    secret = "QXZJQXZJ4711"
    file = folder / "any.yaml"
    marked = [
        f"password={secret}",
        f'x required password="{secret} x";',
        f"https://me:{secret}@host",
        f"token:{secret}",
    ]
    trees = [make(text) for make in PLACES.values() for text in marked]
    trees += [client(name, text) for name in PROPERTIES for text in [*marked, secret] if name not in SHOWN_TEXTS]
    trees += [client(name, text) for name in SHOWN_TEXTS for text in marked]
    trees += [{f"password={secret}": 1}, {"kafka": {"client": {f"sasl.password:{secret}": None}}}]
    for tree in trees:
        file.write_text(yaml.safe_dump(tree))
        said, code = check_config(file, {})
        if code == 0:
            config = load_config(file, {})
            said += [json.dumps(config.redacted()), repr(config.kafka)]
        for text in said:
            assert secret not in text, (tree, text)


@pytest.mark.usefixtures("own_redaction")
@pytest.mark.parametrize("way", ["${S}", "literal"])
def test_no_refusal_of_the_kafka_client_shows_it(folder: Path, capfd: pytest.CaptureFixture[str], way: str) -> None:
    """librdkafka quotes the value that it refuses, or parts of it."""
    secret = "QXZJ-4711-QXZJQXZJ"
    (folder / "s").write_text(secret)
    refused = []
    for name in PROPERTIES:
        if way == "literal" and name in SHOWN_TEXTS:
            continue
        file = folder / "client.yaml"
        file.write_text(yaml.safe_dump(client(name, secret if way == "literal" else way)))
        if check_config(file, {"S": secret})[1]:
            continue
        config = load_config(file, {"S": secret})
        redaction.hide(config.secrets())
        logs.setup("debug", "json")
        try:
            with refusals_named():
                ClusterClients(config.kafka.client, lambda: 0.0)
        except UnusableClient as refusal:
            refused.append(name)
            structlog.get_logger().error("kafka_client_unusable", error=str(refusal))
        except KafkaException:
            raise AssertionError(f"{name}: not named") from None
        told = "".join(capfd.readouterr())
        assert "QXZJ" not in told, (name, told)
    assert len(refused) >= (7 if way == "literal" else 12)


@pytest.mark.usefixtures("own_redaction")
def test_no_reload_shows_it(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "txninsight.yaml"
    file.write_text("log: {format: json}\n")
    running = CurrentConfig(load_config(file, {}), file)
    monkeypatch.setenv("S", "QXZJ-4711-QXZJQXZJ")
    for number, make in enumerate(PLACES.values()):
        file.write_text(yaml.safe_dump({"log": {"format": "json"}, **make("${S}"), f"wrong{number}": "${S}"}))
        assert running.take(running.read()) is None
        file.write_text(yaml.safe_dump(make("x-${S}")))
        running.take(running.read())
    told = capfd.readouterr().err
    assert told.count("config_refused") >= len(PLACES)
    assert "QXZJ" not in told


# --- The daemon itself ------------------------------------------------------------------------------------------------


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Not started; its broker does not exist. The file `s` is secret."""
    (tmp_path / "s").write_text("ZZQX-0815-ZZQXZZQX\n")
    made = Daemon(tmp_path, f"127.0.0.1:{free_port()}", {"topics": ["orders"]})
    yield made
    made.end()


def written(daemon: Daemon, **sections: Any) -> None:
    former = yaml.safe_load(daemon.config_file.read_text())
    daemon.config_file.write_text(yaml.safe_dump({**former, **sections}))


@pytest.mark.slow
def test_a_daemon_that_refuses_its_client_shows_none(daemon: Daemon) -> None:
    properties = {
        "bootstrap.servers": "127.0.0.1:1",
        "security.protocol": "${file:s}",
        "sasl.jaas.config": 'org.apache.Module required username="me" password="WWQX0815WWQX";',
    }
    written(daemon, kafka={"client": properties})
    assert daemon.start().await_exit() == EXIT_UNUSABLE
    log = daemon.log_file.read_text()
    assert "kafka_client_unusable" in log
    assert not [part for part in ("QXZJ", "ZZQX", "WWQX") if part in log]


@pytest.mark.slow
def test_a_daemon_without_its_broker_shows_none(daemon: Daemon) -> None:
    """Its log, /readyz and its command line, with secrets in every place that it starts with."""
    directory = daemon.directory / "QXZJ-4711-QXZJQXZJ"
    properties = {"bootstrap.servers": "${S}.invalid:9092", "client.id": "${file:s}", "sasl.password": "WWQX0815WWQX"}
    written(
        daemon,
        kafka={"client": properties},
        topics=["${S}", {"pattern": "${file:s}.*"}],
        state={"directory": str(directory.parent / "${S}")},
        start="1${MINUTES}m",
    )
    daemon.launch(env={"S": "QXZJ-4711-QXZJQXZJ", "MINUTES": "4711"})
    daemon.await_that(lambda: daemon.status("/readyz") == 503, "it answers")
    daemon.await_that(lambda: "does not answer" in " ".join(daemon.missing()), "/readyz says what is missing")
    daemon.await_that(lambda: bool(daemon.log(event="kafka_client")), "librdkafka says something")
    assert daemon.process is not None
    said = [daemon.log_file.read_text(), " ".join(daemon.missing())]
    said += [Path(f"/proc/{pid}/cmdline").read_text() for pid in (daemon.process.pid, *daemon.pids().values())]
    assert not [part for part in ("QXZJ", "ZZQX", "WWQX", "14711") if part in "".join(said)]
    assert directory.exists()
    assert daemon.stop() == 0
