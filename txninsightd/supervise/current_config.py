"""The daemon's present configuration, and the file from which it can be read again.

The parent owns it; each fork gets a copy. A file with a fault changes nothing: each fault is a line of the log, with
the text of `--check-config`. Changes that need a restart are named, and wait for it.
"""

import os
import pickle
from pathlib import Path

import structlog

from txninsightd import logs
from txninsightd.config import Config, ConfigError
from txninsightd.config.reloading import reload_config

log = structlog.get_logger()


class CurrentConfig:
    """`config` is the present one; `path` is the file that it came from."""

    def __init__(self, config: Config, path: Path) -> None:
        self.config = config
        self._path = path

    def reload(self) -> bytes | None:
        """Read the file again; gives the resulting config, for `unpickled`, or None when the file is refused."""
        try:
            reloaded = reload_config(self.config, self._path, os.environ)
        except ConfigError as error:
            for problem in error.problems:
                log.error("config_fault", fault=str(problem))
            log.error("config_refused", faults=len(error.problems), advice="the former configuration stays in force")
            return None
        self.config = reloaded.config
        logs.setup(self.config.log.level, self.config.log.format)
        log.info("config_applied", changed=reloaded.applied)
        if reloaded.needs_restart:
            log.warning(
                "config_needs_restart",
                keys=reloaded.needs_restart,
                advice="restart txninsightd for these; until then they stay as they were",
            )
        # Pickle, since msgspec's encoders refuse a Secret. The bytes stay in memory (`write_memory_file`).
        return pickle.dumps(self.config)


def unpickled(config: bytes) -> Config:
    """The config that `reload` gave; for processes of one daemon only."""
    result: Config = pickle.loads(config)
    return result
