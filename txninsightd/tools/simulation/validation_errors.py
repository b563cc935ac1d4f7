"""Validation errors of a scenario file, with line and key: `file:line: key: what was expected`.

The YAML parser gives the line of each key, and jsonschema gives the error. This module joins both into one sentence.
The sentence uses a schema's `description` to name what was expected.
"""

import json
from collections.abc import Iterator
from typing import Any

import yaml
from jsonschema.exceptions import ValidationError

KeyPath = tuple[str | int, ...]


class BadScenario(ValueError):
    """An invalid scenario. `problems` are lines `file:line: key: what was expected`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def error_line(name: str, lines: dict[KeyPath, int], path: KeyPath, words: str) -> str:
    """One error of the file `name`. A key without a line gets the line of its parent."""
    known = path
    # The loop ends at (), which has a line.
    while known not in lines:
        known = known[:-1]
    key = ".".join(str(part) for part in path) or "scenario"
    return f"{name}:{lines[known]}: {key}: {words}"


def lines_of(text: str, name: str) -> tuple[dict[KeyPath, int], list[KeyPath]]:
    """The line of each key, and the keys that occur twice in a mapping. Raises BadScenario."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadScenario([f"{name}:{line}: expected YAML: {error.problem}"]) from None
    except yaml.YAMLError as error:
        raise BadScenario([f"{name}:1: expected YAML: {error}"]) from None
    lines: dict[KeyPath, int] = {(): 1}
    repeated: list[KeyPath] = []
    if root is not None:
        _walk(root, (), lines, repeated)
    return lines, repeated


def _walk(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], repeated: list[KeyPath]) -> None:
    children: Iterator[tuple[str | int, yaml.Node, yaml.Node]] = iter(())
    if isinstance(node, yaml.MappingNode):
        children = ((key.value, key, value) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        children = ((i, item, item) for i, item in enumerate(node.value))
    for part, marked, child in children:
        below = (*path, part)
        if below in lines:
            repeated.append(below)
        lines[below] = marked.start_mark.line + 1
        # An anchor inside itself recurses for ever; the caller handles the RecursionError.
        _walk(child, below, lines, repeated)


def describe_error(error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    """A schema error as keys, each with what was expected."""
    path: KeyPath = tuple(error.absolute_path)
    schema: Any = error.schema
    if error.validator == "additionalProperties":
        known = schema.get("properties", {})
        keys: Any = error.instance
        for key in keys:
            if key not in known:
                yield (*path, key), f"unknown key, expected one of: {', '.join(known)}"
    elif error.validator == "required":
        # jsonschema names the missing key only in its message: "'seed' is a required property".
        missing = error.message.split("'")[1]
        yield path, f"expected the key {missing!r}, which is missing"
    else:
        yield path, f"expected {_wanted(error, schema)}, found {_short(error.instance)}"


def _wanted(error: ValidationError, schema: dict[str, Any]) -> str:
    if "description" in schema:
        return str(schema["description"])
    match error.validator:
        case "enum":
            return "one of " + ", ".join("null" if word is None else str(word) for word in schema["enum"])
        case "minItems" | "minProperties":
            return "at least one entry"
        case "type":
            return str(error.validator_value)
        case _:
            return f"{error.validator} {error.validator_value}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
