"""The entry: a file and an environment become a `Config`, or a `ConfigError` with every fault."""

from collections.abc import Mapping
from pathlib import Path

from txninsightd.config.building import build
from txninsightd.config.checking import check
from txninsightd.config.model import Config
from txninsightd.config.problems import MOST_PROBLEMS, ConfigError, Problem
from txninsightd.config.reading import Reading, read
from txninsightd.redaction import Redaction

_DIRECTORY = ("state", "directory")


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Load a config file; `environ` has the values of `${NAME}`. Raises ConfigError with every fault."""
    reading = read(path, environ)
    check(reading)
    if reading.problems:
        raise ConfigError(_shown(reading))
    return build(reading.tree, reading.filled_in)


def load_state_directory(path: Path, environ: Mapping[str, str]) -> str:
    """Give a config file's `state.directory`, even if other keys have faults. Raises ConfigError.

    A command that only contacts the daemon must not need the right to read its secrets.
    """
    reading = read(path, environ)
    check(reading)
    if reading.has_more_problems:
        raise ConfigError(_shown(reading))
    problems = [problem for problem in _shown(reading) if problem.path in ((), _DIRECTORY[:1], _DIRECTORY)]
    if problems:
        raise ConfigError(tuple(problems))
    directory: str = reading.tree.get("state", {}).get("directory", Config().state.directory)
    return directory


def check_config(path: Path, environ: Mapping[str, str]) -> tuple[list[str], int]:
    """Give the lines to print and the exit code of `--check-config`: 0 and a summary, or 2 and a line a problem."""
    try:
        config = load_config(path, environ)
    except ConfigError as error:
        return [str(problem) for problem in error.problems], 2
    return [f"{path}: good: {_summary(config)}"], 0


def _shown(reading: Reading) -> tuple[Problem, ...]:
    """The problems as they may be shown, by line."""
    redaction = Redaction(reading.filled_in)
    problems = [problem._replace(message=redaction.clean(problem.message)) for problem in reading.problems]
    problems.sort(key=lambda problem: (problem.line, str(problem)))
    if reading.has_more_problems:
        message = f"expected at most {MOST_PROBLEMS} faults (found more: correct those above first)"
        problems.append(Problem(reading.file, problems[-1].line, (), message))
    return tuple(problems)


def _summary(config: Config) -> str:
    patterns = sum(topic.pattern is not None for topic in config.topics)
    counts = {
        "topic by name|topics by name": len(config.topics) - patterns,
        "pattern|patterns": patterns,
        "mapping|mappings": sum(topic.mapping is not None for topic in config.topics),
        "transaction type|transaction types": len(config.transaction_types),
    }
    return ", ".join(f"{count} {things.split('|')[count != 1]}" for things, count in counts.items() if count)
