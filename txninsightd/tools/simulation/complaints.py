"""What is wrong with a scenario file, by line and key: `file:line: key: what was expected`.

YAML's own parser says on which line each key stands, and jsonschema what is wrong with it; here both are put into one
sentence. A schema's `description` is how it is named to people.
"""

import json
from collections.abc import Iterator
from typing import Any

import yaml
from jsonschema.exceptions import ValidationError

KeyPath = tuple[str | int, ...]


class BadScenario(ValueError):
    """A scenario that cannot be played. `problems` are lines `file:line: key: what was expected`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def complaint(name: str, lines: dict[KeyPath, int], path: KeyPath, words: str) -> str:
    """One fault of the file `name`; a key that has no line of its own is found on that of what holds it."""
    known = path
    # It ends at (), which has a line.
    while known not in lines:
        known = known[:-1]
    key = ".".join(str(part) for part in path) or "scenario"
    return f"{name}:{lines[known]}: {key}: {words}"


def lines_of(text: str, name: str) -> tuple[dict[KeyPath, int], list[KeyPath]]:
    """The line on which each key stands, and the keys that a mapping has twice. Raises BadScenario."""
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
        # An anchor inside itself has no end: whoever parses takes the RecursionError.
        _walk(child, below, lines, repeated)


def in_words(error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    """A schema's error as keys, and what was expected of each."""
    path: KeyPath = tuple(error.absolute_path)
    schema: Any = error.schema
    if error.validator == "additionalProperties":
        known = schema.get("properties", {})
        keys: Any = error.instance
        for key in keys:
            if key not in known:
                yield (*path, key), f"unknown key, expected one of: {', '.join(known)}"
    elif error.validator == "required":
        # jsonschema names the missing key in its message alone: "'seed' is a required property".
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
