"""The config that the daemon goes by, and the file that it can be read anew from.

The parent holds it; whoever is forked takes a copy along. A file with a fault changes nothing: each fault is a line of
the log, in the words of `--check-config`. What cannot change while the daemon runs is named, and waits for a restart.
"""

import os
import pickle
from pathlib import Path

import structlog

from txninsightd import logs
from txninsightd.config import Config, ConfigError
from txninsightd.config.reloading import reload_config

log = structlog.get_logger()


class Running:
    """`config` is the one to go by; `path` the file that it came from."""

    def __init__(self, config: Config, path: Path) -> None:
        self.config = config
        self._path = path

    def reload(self) -> bytes | None:
        """Read the file anew; gives the config that results, for `unpacked`, or None when the file is refused."""
        try:
            reloaded = reload_config(self.config, self._path, os.environ)
        except ConfigError as error:
            for problem in error.problems:
                log.error("config_fault", fault=str(problem))
            log.error("config_refused", faults=len(error.problems), advice="the former configuration goes on")
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
        # Not by msgspec, whose encoders refuse a Secret. The bytes go through memory alone (`in_memory`).
        return pickle.dumps(self.config)


def unpacked(config: bytes) -> Config:
    """What `reload` gave; to be used between processes of one daemon only."""
    unpacked: Config = pickle.loads(config)
    return unpacked
