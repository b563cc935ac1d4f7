"""What the local stack needs of the machine: clear errors when it is not there."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from txninsightd.tools.stack import StackError, machine


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server((machine.HOST, 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_named_with_the_variable_that_changes_it(taken_port: int) -> None:
    free = machine.free_ports(1)[0]
    with pytest.raises(StackError, match=rf"port {taken_port} \(HTTP_PORT\) is taken .* HTTP_PORT=\.\.\."):
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
    machine.ensure_commands(["java", "mvn"])
    assert installed == ["openjdk-17-jre-headless", "maven"]


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
