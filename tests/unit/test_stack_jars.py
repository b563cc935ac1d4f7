"""The broker's jars are those of the checked-in list, or nothing runs."""

from pathlib import Path

import pytest

from txninsightd.tools.stack import StackError, jars


@pytest.fixture
def libs(tmp_path: Path) -> Path:
    folder = tmp_path / "libs"
    folder.mkdir()
    for name in ("a.jar", "b.jar"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def sums(libs: Path, tmp_path: Path) -> Path:
    path = tmp_path / "sums"
    path.write_text(jars.format_sums(libs))
    return path


def test_the_listed_jars_pass(libs: Path, sums: Path) -> None:
    jars.verify(libs, sums)


def test_another_content_is_an_error_that_names_the_jar(libs: Path, sums: Path) -> None:
    (libs / "b.jar").write_text("tampered with")
    with pytest.raises(
        StackError, match=r"remove that folder(.|\n)*b\.jar: has SHA-256 [0-9a-f]{64}, not [0-9a-f]{64}"
    ):
        jars.verify(libs, sums)


def test_a_missing_and_an_extra_jar_are_errors(libs: Path, sums: Path) -> None:
    (libs / "a.jar").rename(libs / "c.jar")
    with pytest.raises(StackError, match=r"a\.jar: missing\n  c\.jar: not in the list"):
        jars.verify(libs, sums)


def test_jars_that_fail_the_check_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "copy_dependencies", lambda target: (target / "evil.jar").write_text("x"))
    with pytest.raises(StackError, match=r"evil\.jar: not in the list"):
        jars.ensure_jars(tmp_path)
    assert list((tmp_path / jars.kafka_version()).iterdir()) == [tmp_path / jars.kafka_version() / "lock"]


def test_what_was_fetched_once_is_not_fetched_again(
    libs: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(target: Path) -> None:
        for jar in libs.iterdir():
            (target / jar.name).write_bytes(jar.read_bytes())

    monkeypatch.setattr(jars, "SUMS", sums)
    monkeypatch.setattr(jars, "copy_dependencies", copy)
    first = jars.ensure_jars(tmp_path / "cache")
    monkeypatch.delattr(jars, "copy_dependencies")
    assert jars.ensure_jars(tmp_path / "cache") == first


def test_the_list_is_that_of_the_pinned_version() -> None:
    assert f"kafka_2.13-{jars.kafka_version()}.jar" in jars.read_sums(jars.SUMS)
