"""Configuration: one YAML file becomes one frozen object, or a list of all its faults.

`load_config` reads the file (`reading`: YAML with a line for every key, `${...}` substituted), checks it against
`config.schema.json` and against the rules that span several keys (`checking`), and builds the `Config` of `model`.
A fault never stops the search for the next one. Each names file, line and key, what was expected and what was found.
Values that came from the environment or from a file are secrets, and no message shows them.
"""

from txninsightd.config.loading import check_config, load_config, load_state_directory
from txninsightd.config.model import Config, Secret, Start, Topic
from txninsightd.config.problems import ConfigError, Problem

__all__ = [
    "Config",
    "ConfigError",
    "Problem",
    "Secret",
    "Start",
    "Topic",
    "check_config",
    "load_config",
    "load_state_directory",
]
