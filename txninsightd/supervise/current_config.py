"""The daemon's present configuration, and the file from which it can be read again.

The parent owns it; each fork gets a copy. A file with a fault changes nothing: each fault is a line of the log, with
the text of `--check-config`. Changes that need a restart are named, and wait for it.

After a reload the parent has the config only as bytes: children that are forked later, and the running aggregator,
unpickle it themselves.
"""

import os
import pickle
from pathlib import Path

import msgspec
import structlog

from txninsightd import logs
from txninsightd.config import Config, ConfigError
from txninsightd.config.reloading import reload_config

log = structlog.get_logger()


class Answer(msgspec.Struct, array_like=True):
    """What became of reading the file. `config`: for `unpickled`; None: the file is refused.

    `unreadable`: why nothing in the file could be read; else `faults` has what is wrong with it.
    """

    config: bytes | None = None
    applied: list[str] = []
    needs_restart: list[str] = []
    log_level: str = ""
    log_format: str = ""
    faults: list[str] = []
    unreadable: str = ""


class CurrentConfig:
    """`config` is the present one; `path` is the file that it came from."""

    def __init__(self, config: Config, path: Path) -> None:
        self._config: Config | None = config
        self._packed = b""
        self._path = path

    @property
    def config(self) -> Config:
        """The config in force. In the parent it is not asked for after the start."""
        if self._config is None:
            self._config = unpickled(self._packed)
        return self._config

    def read(self) -> bytes:
        """Read the file again, in a process of its own; gives the answer for `take`."""
        try:
            reloaded = reload_config(self.config, self._path, os.environ)
        except ConfigError as error:
            problems = [str(problem) for problem in error.problems]
            answer = Answer(unreadable=problems[0]) if error.of_the_whole else Answer(faults=problems)
            return msgspec.msgpack.encode(answer)
        of_log = reloaded.config.log
        # Pickle, since msgspec's encoders refuse a Secret. The bytes stay in memory (`write_memory_file`).
        packed = pickle.dumps(reloaded.config)
        answer = Answer(packed, reloaded.applied, reloaded.needs_restart, of_log.level, of_log.format)
        return msgspec.msgpack.encode(answer)

    def take(self, answer: bytes) -> bytes | None:
        """Put an answer in force; gives the config, for `unpickled`, or None when the file is refused."""
        answered = msgspec.msgpack.decode(answer, type=Answer)
        if answered.config is None:
            self._refuse(answered)
            return None
        self._config, self._packed = None, answered.config
        logs.setup(answered.log_level, answered.log_format)
        log.info("config_applied", changed=answered.applied)
        if answered.needs_restart:
            log.warning(
                "config_needs_restart",
                keys=answered.needs_restart,
                advice="restart txninsightd for these; until then they stay as they were",
            )
        return answered.config

    def refuse(self, reason: str) -> None:
        """Say that the file is refused, since it could not be read."""
        log.error("config_refused", reason=f"{self._path}: {reason}", advice="the former configuration stays in force")

    def _refuse(self, answered: Answer) -> None:
        advice = "the former configuration stays in force"
        if answered.unreadable:
            log.error("config_refused", reason=answered.unreadable, advice=advice)
            return
        for fault in answered.faults:
            log.error("config_fault", fault=fault)
        log.error("config_refused", faults=len(answered.faults), advice=advice)


def unpickled(config: bytes) -> Config:
    """The config that `take` gave; for processes of one daemon only."""
    result: Config = pickle.loads(config)
    return result
