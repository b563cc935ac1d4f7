"""The broker's jars: fetched through Maven at the version of `pom.xml`, and verified against `kafka-jars.sha256`.

They are cached in the caller's directory, one folder per version. Several processes may call at once: one fetches, the
others wait, and a folder is either absent or complete. The checksums are verified every time (a fifth of a second), so
a jar that was damaged or swapped later does not run either.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from txninsightd.tools.stack import StackError, machine

POM = Path(__file__).with_name("pom.xml")
SUMS = Path(__file__).with_name("kafka-jars.sha256")


def kafka_version() -> str:
    """The pinned version in pom.xml."""
    version = ElementTree.parse(POM).findtext("{*}version")
    if not version:
        raise StackError(f"{POM} names no version")
    return version


def ensure_jars(cache: Path) -> Path:
    """Return the folder with the broker's jars, `cache`/<version>/libs: fetched if missing, and always verified."""
    version_dir = cache / kafka_version()
    version_dir.mkdir(parents=True, exist_ok=True)
    libs = version_dir / "libs"
    with _locked(version_dir / "lock"):
        if not libs.is_dir():
            _fetch(libs)
    verify(libs, SUMS)
    return libs


def verify(libs: Path, sums: Path) -> None:
    """Raise StackError unless the folder holds exactly the listed jars with the right checksums."""
    wanted = read_sums(sums)
    found = {path.name: sha256_of(path) for path in sorted(libs.glob("*.jar"))}
    wrong = [f"{name}: missing" for name in wanted.keys() - found.keys()]
    wrong += [f"{name}: not in the list" for name in found.keys() - wanted.keys()]
    wrong += [
        f"{name}: has SHA-256 {found[name]}, not {wanted[name]}"
        for name in wanted.keys() & found.keys()
        if found[name] != wanted[name]
    ]
    if wrong:
        raise StackError(
            f"the Kafka jars in {libs} differ from {sums.name}; remove that folder to fetch them again:\n  "
            + "\n  ".join(sorted(wrong))
        )


def read_sums(sums: Path) -> dict[str, str]:
    """Jar name -> SHA-256 in hex, from a file in sha256sum's format."""
    pairs = (line.split() for line in sums.read_text().splitlines())
    return {name: digest for digest, name in pairs}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def format_sums(libs: Path) -> str:
    """The checksum list of a folder of jars, to commit after a version change."""
    return "".join(f"{sha256_of(path)}  {path.name}\n" for path in sorted(libs.glob("*.jar")))


def copy_dependencies(target: Path) -> None:
    """Let Maven copy the jars of pom.xml and their dependencies into `target`."""
    machine.ensure_commands(["java", "mvn"])
    command = ["mvn", "-B", "-q", "-ntp", "-f", str(POM), "dependency:copy-dependencies"]
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={target.absolute()}"]
    done = subprocess.run([*command, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StackError(
            "Maven could not fetch the Kafka broker; check that Maven Central is reachable, "
            f"or set a mirror in ~/.m2/settings.xml:\n{machine.last_lines(done.stdout + done.stderr)}"
        )


def _fetch(libs: Path) -> None:
    print(f"fetching Kafka {kafka_version()} from Maven Central (54 MB) ...", file=sys.stderr, flush=True)
    # In the same directory, so the rename is atomic.
    scratch = Path(tempfile.mkdtemp(prefix="fetching-", dir=libs.parent))
    try:
        copy_dependencies(scratch)
        verify(scratch, SUMS)
        scratch.rename(libs)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
