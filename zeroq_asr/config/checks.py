"""Checks of the fields of specifications: each raises ConfigError, which says what is allowed."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

S = TypeVar("S")

_LARGEST = sys.float_info.max


def from_dict(cls: type[S], data: Mapping[str, Any]) -> S:
    """Return the specification of the fields ``data``; ConfigError for unknown keys."""
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if not isinstance(data, Mapping):
        raise ConfigError(cls.__name__, f"expected an object of {known}, got {type(data).__name__}")
    unknown = sorted(str(key) for key in data if key not in known)
    if unknown:
        raise ConfigError(cls.__name__, f"unknown keys {shown(unknown, 200)}", f"it has {known}")
    return cls(**data)


def whole(where: str, name: str, value: object, low: int, high: int) -> None:
    """Raise ConfigError unless ``value`` is a whole number from ``low`` to ``high``."""
    # bool is an int to Python, but True is not a number of bits
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(where, f"{name} must be a whole number from {low} to {high}, got {shown(value)}")


def real(
    where: str,
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Raise ConfigError unless ``value`` is a finite number within the bounds."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    # a whole number may be larger than any float
    finite = -_LARGEST <= number <= _LARGEST
    if not finite or not (above < number and at_least <= number <= at_most and number < below):
        bounds = [
            f"{sign} {bound:g}"
            for sign, bound in ((">", above), (">=", at_least), ("<=", at_most), ("<", below))
            if math.isfinite(bound)
        ]
        raise ConfigError(where, f"{name} must be a finite number {' and '.join(bounds)}, got {shown(value)}")


def names(where: str, name: str, value: object) -> tuple[str, ...]:
    """Return a list of names as a tuple; ConfigError where it is none."""
    if not isinstance(value, tuple | list):
        raise ConfigError(where, f"{name} must be a list of names, got {shown(value)}")
    for one in value:
        text(where, f"a name of {name}", one)
    return tuple(str(one) for one in value)


def flag(where: str, name: str, value: object) -> None:
    """Raise ConfigError unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise ConfigError(where, f"{name} must be true or false, got {shown(value)}")


def choice(where: str, name: str, value: object, allowed: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Raise ConfigError unless ``value`` is one of the texts that are ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(where, f"{name} {shown(value)} is not one of {', '.join(allowed)}")


def text(where: str, name: str, value: object) -> None:
    """Raise ConfigError unless ``value`` is a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(where, f"{name} must be a non-empty string, got {shown(value)}")
