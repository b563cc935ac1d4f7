"""`${NAME}` and `${file:PATH}` in the config's texts: how the config uses secrets that are not in the file.

`${NAME}` is a variable of the environment, `${file:PATH}` the content of a file without its last line break; a
relative path starts at the config file's folder. `$${` is a plain `${`. A substituted value is not searched again, and
the whole text around it becomes a `Secret`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from txninsightd.config.model import Secret
from txninsightd.config.problems import shortened
from txninsightd.config.small_file import FileTooLarge, UnreadableFile, read_small_file

_MARK = re.compile(r"\$\$\{|\$\{(?P<inside>[^}]*)(?P<end>\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE_BYTES = 65_536
_MOST_FILLED_IN = 262_144
"""Characters that `${...}` may bring into one text; the kernel takes half as many for a variable."""


class SubstitutionError(Exception):
    """A `${...}` that cannot be filled in; the text says what was expected, and never shows a value."""


class Substitution:
    """Fills in the `${...}` of one config file. Each file that it names is read once."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self._environ = environ
        self._folder = folder
        self._found: dict[str, str | SubstitutionError] = {}
        self._left = 0

    @property
    def filled_in(self) -> frozenset[str]:
        """All values that were found: nothing may show them."""
        return frozenset(value for value in self._found.values() if isinstance(value, str) and value)

    def apply(self, text: str) -> str:
        """Give the text with every `${...}` filled in: a `Secret` if there was one. Raises SubstitutionError."""
        self._left = _MOST_FILLED_IN
        filled = _MARK.sub(self._replacement, text)
        secret = any(match["inside"] is not None for match in _MARK.finditer(text))
        return Secret(filled) if secret else filled

    def _replacement(self, match: re.Match[str]) -> str:
        inside = match["inside"]
        if inside is None:
            return "${"
        if not match["end"]:
            raise SubstitutionError("expected a } after ${ (found none; a plain ${ is written $${)")
        value = self._value(inside)
        self._left -= len(value)
        if self._left < 0:
            most = f"at most {_MOST_FILLED_IN} characters in a text"
            raise SubstitutionError(f"expected ${{...}} for {most} (found more)")
        return value

    def _value(self, inside: str) -> str:
        """What stands for `${inside}`, found once: also a fault is the same each time."""
        if inside not in self._found:
            try:
                is_file = inside.startswith("file:")
                self._found[inside] = self._file(inside.removeprefix("file:")) if is_file else self._variable(inside)
            except SubstitutionError as error:
                self._found[inside] = error
        found = self._found[inside]
        if isinstance(found, SubstitutionError):
            raise SubstitutionError(*found.args)  # a new one, since each raise makes its traceback longer
        return found

    def _variable(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            # What stands there is not shown: it may be a part of a password that contains ${.
            raise SubstitutionError(
                "expected ${NAME} of letters, digits and _, or ${file:PATH} (found another; a plain ${ is written $${)"
            )
        if name not in self._environ:
            raise SubstitutionError(f"expected {shortened(name)} to be set in the environment (found it unset)")
        return self._environ[name]

    def _file(self, name: str) -> str:
        shown = shortened(repr(name))
        try:
            content = read_small_file(self._folder / name, _FILE_BYTES)
        except FileTooLarge:
            raise SubstitutionError(f"expected at most {_FILE_BYTES} bytes in {shown} (found more)") from None
        except UnreadableFile as error:
            raise SubstitutionError(f"expected a file to read at {shown} ({error})") from None
        try:
            text = content.decode()
        # Raised without its cause, which contains bytes of a possible secret.
        except UnicodeDecodeError:
            raise SubstitutionError(f"expected UTF-8 text in {shown} (found other bytes)") from None
        return text.removesuffix("\n").removesuffix("\r")
