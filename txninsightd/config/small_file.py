"""Reads the config's files: never waits, and never takes more memory than the file may have bytes.

Only regular files are opened (symbolic links are followed). A named pipe would wait for a writer, a device may act when
it is opened or never end, and a directory or a socket has no content.
"""

import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "found a named pipe",
    stat.S_IFCHR: "found a device",
    stat.S_IFBLK: "found a device",
    stat.S_IFDIR: "found a directory",
    stat.S_IFSOCK: "found a socket",
}


class UnreadableFile(Exception):
    """The file cannot be read; the text says why, in a few words."""


class FileTooLarge(UnreadableFile):
    """The file has more bytes than it may have."""


def read_small_file(path: Path, most_bytes: int) -> bytes:
    """The whole content. Raises UnreadableFile, and FileTooLarge for more than `most_bytes`."""
    try:
        # Before it is opened: opening alone starts a watchdog device, or rewinds a tape.
        _require_regular(path.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            _require_regular(os.fstat(descriptor))  # it may be another one by now
            # None: a file of /proc that has nothing to give just now.
            content: bytes = file.read(most_bytes + 1) or b""
    except OSError as error:
        raise UnreadableFile(error.strerror or type(error).__name__) from None
    except ValueError:
        raise UnreadableFile("not a path") from None
    if len(content) > most_bytes:
        raise FileTooLarge("found more")
    return content


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableFile(_KINDS.get(stat.S_IFMT(status.st_mode), "found another kind of file"))
