"""What the local stack needs of the machine: clear errors when it is not there."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from txninsightd.tools.stack import StackError, machine


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server((machine.HOST, 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_named_with_the_variable_that_changes_it(taken_port: int) -> None:
    free = machine.free_ports(1)[0]
    with pytest.raises(StackError, match=rf"port {taken_port} \(HTTP_PORT\) is used .* HTTP_PORT=\.\.\."):
        machine.require_free({"KAFKA_PORT": free, "HTTP_PORT": taken_port})


def test_free_ports_pass() -> None:
    machine.require_free({"KAFKA_PORT": machine.free_ports(1)[0]})


def test_free_ports_are_distinct_and_leave_out_taken_ones(taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "TEST_PORTS", range(taken_port, taken_port + 4))
    drawn = machine.free_ports(2)
    assert taken_port not in drawn
    assert len(set(drawn)) == 2


def test_missing_commands_are_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(StackError, match=r"java and mvn missing.* apt-get install openjdk-17-jre-headless maven"):
        machine.ensure_commands(["java", "mvn"])


def test_root_installs_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = []
    monkeypatch.setattr(machine, "is_usable", lambda name: bool(installed))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(machine, "apt_install", installed.extend)
    monkeypatch.setattr(machine, "mask_services", lambda packages: None)
    machine.ensure_commands(["java", "mvn"])
    assert installed == ["openjdk-17-jre-headless", "maven"]


def test_only_what_lacks_java_is_told_of_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(StackError, match=r"^prometheus missing\. Install them"):
        machine.ensure_commands(["prometheus"])


def test_a_service_is_masked_before_its_package_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masked_at_install: list[bool] = []
    unit = tmp_path / "prometheus.service"
    monkeypatch.setattr(machine, "UNITS", tmp_path)
    monkeypatch.setattr(machine, "is_usable", lambda name: bool(masked_at_install))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(machine, "apt_install", lambda _: masked_at_install.append(unit.is_symlink()))
    machine.ensure_commands(["java", "prometheus"])
    assert masked_at_install == [True]
    assert [(path.name, str(path.readlink())) for path in tmp_path.iterdir()] == [("prometheus.service", os.devnull)]


def test_a_service_that_was_set_up_before_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = tmp_path / "prometheus.service"
    unit.write_text("[Service]")
    monkeypatch.setattr(machine, "UNITS", tmp_path)
    machine.mask_services(["prometheus", "maven"])
    assert unit.read_text() == "[Service]"
    assert list(tmp_path.iterdir()) == [unit]


def program(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def test_grafana_is_found_on_the_path_and_in_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, unpacked = tmp_path / "share" / "grafana", tmp_path / "grafana-11"
    monkeypatch.setattr(machine, "GRAFANA_HOME", home)
    monkeypatch.setenv("PATH", str(unpacked / "bin"))
    assert machine.grafana() is None
    (unpacked / "conf").mkdir(parents=True)
    (unpacked / "conf" / "defaults.ini").touch()
    program(unpacked / "bin" / "grafana-server")
    assert machine.grafana() == [str(unpacked / "bin" / "grafana-server"), "--homepath", str(unpacked)]
    program(home / "bin" / "grafana")
    (home / "conf").mkdir()
    (home / "conf" / "defaults.ini").touch()
    assert machine.grafana() == [str(home / "bin" / "grafana"), "server", "--homepath", str(home)]


@pytest.mark.parametrize(
    ("said", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "1.8.0_292"', 1),
        ("no version at all", 0),
    ],
)
def test_javas_version_is_read(said: str, major: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        stderr = said

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Done())
    assert machine.java_major() == major
