"""Columns of a snapshot: native numbers as bytes, checked when they are read."""

from array import array
from collections.abc import Iterable
from math import isfinite
from typing import Any

from txninsightd.core.lifecycle import NEVER
from txninsightd.core.saved_values import LATEST_S


class Table:
    """Distinct values, numbered in the order in which they came."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def column(self, values: Iterable[Any]) -> bytes:
        """The numbers of these values; new values get one."""
        numbers = self.numbers
        return array("I", [numbers.setdefault(value, len(numbers)) for value in values]).tobytes()


def numbers_of(kind: str, data: bytes) -> "array[Any]":
    numbers: array[Any] = array(kind)
    numbers.frombytes(data)
    return numbers


def moments_of(data: bytes) -> "array[float]":
    moments = numbers_of("d", data)
    # What is not a number slips through min() and max(), but not through a sum.
    if moments and not (isfinite(sum(moments)) and -LATEST_S <= min(moments) <= max(moments) <= LATEST_S):
        raise ValueError("a timestamp out of range")
    return moments


def moments_or_never_of(data: bytes) -> "array[float]":
    moments = numbers_of("d", data)
    if not all(-LATEST_S <= moment <= LATEST_S or moment == NEVER for moment in moments):
        raise ValueError("a timestamp out of range")
    return moments


def due_ats_of(data: bytes) -> "array[float]":
    due_ats = numbers_of("d", data)
    # A transaction without a deadline has NaN here, for which no comparison holds.
    if any(abs(due_at) > LATEST_S for due_at in due_ats):
        raise ValueError("a timestamp out of range")
    return due_ats
