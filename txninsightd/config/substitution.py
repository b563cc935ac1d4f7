"""`${NAME}` and `${file:PATH}` in the config's texts: how the config uses secrets that are not in the file.

`${NAME}` is a variable of the environment, `${file:PATH}` the content of a file without its last line break; a
relative path starts at the config file's folder. `$${` is a plain `${`. A substituted value is not searched again, and
the whole text around it becomes a `Secret`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from txninsightd.config.model import Secret

_MARK = re.compile(r"\$\$\{|\$\{(?P<inside>[^}]*)(?P<end>\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE_BYTES = 65_536


class SubstitutionError(Exception):
    """A `${...}` that cannot be filled in; the text says what was expected, and never shows a value."""


class Substitution:
    """Fills in the `${...}` of one config file."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self._environ = environ
        self._folder = folder

    def apply(self, text: str) -> str:
        """Give the text with every `${...}` filled in: a `Secret` if there was one. Raises SubstitutionError."""
        filled = _MARK.sub(self._replacement, text)
        secret = any(match["inside"] is not None for match in _MARK.finditer(text))
        return Secret(filled) if secret else filled

    def _replacement(self, match: re.Match[str]) -> str:
        inside = match["inside"]
        if inside is None:
            return "${"
        if not match["end"]:
            raise SubstitutionError("expected a } after ${ (found none; a plain ${ is written $${)")
        if inside.startswith("file:"):
            return self._file(inside.removeprefix("file:"))
        return self._variable(inside)

    def _variable(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            wanted = "expected ${NAME} of letters, digits and _, or ${file:PATH}"
            raise SubstitutionError(f"{wanted} (found ${{{name}}}; a plain ${{ is written $${{)")
        if name not in self._environ:
            raise SubstitutionError(f"expected {name} to be set in the environment (found it unset)")
        return self._environ[name]

    def _file(self, name: str) -> str:
        path = self._folder / name
        try:
            # Opening a named pipe could wait for ever.
            if not path.is_file():
                raise SubstitutionError(f"expected a file to read at {name!r} (found none)")
            with path.open("rb") as stream:
                content = stream.read(_FILE_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a path"
            raise SubstitutionError(f"expected a file to read at {name!r} ({reason})") from None
        return _text(name, content)


def _text(name: str, content: bytes) -> str:
    if len(content) > _FILE_BYTES:
        raise SubstitutionError(f"expected at most {_FILE_BYTES} bytes in {name!r} (found more)")
    try:
        text = content.decode()
    # Raised without its cause, which contains bytes of a possible secret.
    except UnicodeDecodeError:
        raise SubstitutionError(f"expected UTF-8 text in {name!r} (found other bytes)") from None
    return text.removesuffix("\n").removesuffix("\r")
