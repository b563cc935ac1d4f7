"""A file system of a few kilobytes that really is full, or really read-only, for root and for other users alike.

It is mounted in a mount namespace of its own, so nothing of it is seen outside or left behind; the tests reach it as
/proc/<pid>/root/... of the shell that holds the namespace. Its limits bind root too, as permission bits do not.
"""

import errno
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

WAYS_IN = (["unshare", "-r", "-m"], ["unshare", "-m"], ["sudo", "-n", "unshare", "-m"])
"""By a user namespace; as root; with sudo."""
SHELL = """
mount -t tmpfs -o size="$2",nr_inodes=32,mode=777 none "$1" && echo $$ || exit
while read -r mode; do mount -o remount,bind,"$mode" "$1"; echo $?; done
"""


FILLER = "filler"
PAGE_BYTES = 4096


class Tmpfs:
    """One mounted tmpfs, while its shell lives."""

    def __init__(self, shell: "subprocess.Popen[str]", directory: Path) -> None:
        self.directory = directory
        self._shell = shell

    def fill(self, growing: Path) -> None:
        """Write until nothing more fits, in the last page of the file `growing` neither (that gets empty lines)."""
        _write_until_full(self.directory / FILLER, bytes(1 << 20))
        _write_until_full(growing, b"\n" * PAGE_BYTES)

    def empty(self) -> None:
        """Undo fill."""
        (self.directory / FILLER).unlink()

    def make_read_only(self) -> None:
        """From now on no user can write."""
        self._remount("ro")

    def make_writable(self) -> None:
        """Undo make_read_only."""
        self._remount("rw")

    def _remount(self, mode: str) -> None:
        _pipe(self._shell.stdin).write(f"{mode}\n")
        _pipe(self._shell.stdin).flush()
        assert _pipe(self._shell.stdout).readline() == "0\n"


@contextmanager
def tmpfs(mount_point: Path, size: str) -> Iterator[Tmpfs]:
    """A tmpfs of `size` ("64k") and some thirty files, over the empty directory `mount_point`.

    Skips the test where the machine allows no mount.
    """
    for way in WAYS_IN:
        if shutil.which(way[0]) is None:
            continue
        command = [*way, "sh", "-c", SHELL, "sh", str(mount_point), size]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
            pid = _pipe(shell.stdout).readline().strip()
            if pid:
                yield Tmpfs(shell, Path(f"/proc/{pid}/root{mount_point}"))
                return
    pytest.skip("no tmpfs can be mounted here: allow user namespaces, or run the tests as root with CAP_SYS_ADMIN")


def _write_until_full(file: Path, piece: bytes) -> None:
    with file.open("ab", buffering=0) as filling:
        while _fits(filling, piece):
            """As much as fits, each time."""


def _fits(file: IO[bytes], piece: bytes) -> bool:
    try:
        return bool(file.write(piece))
    except OSError as refused:
        if refused.errno != errno.ENOSPC:
            raise
        return False


def _pipe(end: IO[str] | None) -> IO[str]:
    assert end is not None
    return end
