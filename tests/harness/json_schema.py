"""The keys that a JSON schema allows."""

from collections.abc import Iterator
from typing import Any


def nodes_of(node: Any) -> Iterator[dict[str, Any]]:
    """Every object in a schema, at any depth."""
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes_of(inner)


def keys_of(node: Any) -> set[str]:
    """The keys that may be set; those that the daemon sets itself are left out."""
    refused = {"$ref": "#/$defs/set_by_the_daemon"}
    return {
        key
        for inner in nodes_of(node)
        for key, value in inner.get("properties", {}).items()
        if value != refused and isinstance(inner.get("properties"), dict)
    }
