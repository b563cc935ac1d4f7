"""What an operator can do when the state directory cannot be used.

Nothing here advises to remove anything: what stands in the way may be the state of another daemon.
"""

import errno
import os
from pathlib import Path

TAKE = "sudo chown -R {user} {directory}"
ADVICE = {
    errno.EACCES: "create it, or give it to the daemon's user: "
    f"sudo install -d -m 700 -o {{user}} {{directory}} && {TAKE}",
    errno.EPERM: f"give it to the daemon's user: {TAKE}",
    errno.EROFS: "mount its file system writable",
    errno.ENOTDIR: "a file is in its place",
    errno.EEXIST: "a file is in its place",
    errno.ENOSPC: "free space on its file system",
    errno.EDQUOT: "raise the quota of user {user}",
}
ANOTHERS = "if another txninsightd runs as that user, leave it alone; if none does, "


def advice(directory: Path, failure: OSError) -> str:
    """What is in the way, and what to do, beside another `state.directory`."""
    link = _dead_link(directory)
    if link is not None:
        return (
            f"{link} is a symbolic link to {link.readlink()}, which this service cannot reach: under systemd, that may "
            f"be the StateDirectory= of another unit{_own_directory()}"
        )
    text = ADVICE.get(failure.errno or 0, "check its file system").format(user=os.geteuid(), directory=directory)
    owner = _other_owner(directory) if failure.errno in (errno.EACCES, errno.EPERM) else None
    return text if owner is None else f"it belongs to user {owner}: {ANOTHERS}{text}"


def _dead_link(directory: Path) -> Path | None:
    """The symbolic link on the path behind which nothing can be seen."""
    for path in (directory, *directory.parents):
        try:
            if path.is_symlink() and not path.exists():
                return path
        except OSError:
            return path
    return None


def _own_directory() -> str:
    """The directory that systemd has made for this service, in words; "" without one."""
    own = os.environ.get("STATE_DIRECTORY", "")
    return f"; this unit's own is {own}" if own else ""


def _other_owner(directory: Path) -> int | None:
    """Whom the directory belongs to, if that is neither this user nor root."""
    try:
        owner = directory.stat().st_uid
    except OSError:
        return None
    return owner if owner not in (0, os.geteuid()) else None
