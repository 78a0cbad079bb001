"""JSON of strangers: each part has the type that it is read as, or a ConfigError names it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

#: how deep attributes are nested
_DEEPEST = 4


def fail(name: str, must_be: str, value: object) -> ConfigError:
    """Return the error that says what a part must be and what was found."""
    return ConfigError("program", f"{name} must be {must_be}, found {shown(value)}")


def text(name: str, value: object) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise fail(name, "a text", value)
    return value


def texts(name: str, value: object) -> tuple[str, ...]:
    """Return a list of texts."""
    return tuple(text(f"an entry of {name}", one) for one in entries(name, value))


def number(name: str, value: object) -> int:
    """Return a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise fail(name, "a whole number", value)
    return value


def entries(name: str, value: object, size: int | None = None) -> list[Any]:
    """Return a list, of ``size`` entries where that is given."""
    if not isinstance(value, list) or size not in (None, len(value)):
        raise fail(name, "a list" if size is None else f"a list of {size}", value)
    return value


def fields(name: str, value: object, keys: Collection[str] | None = None) -> dict[str, Any]:
    """Return an object, with those keys and no others where they are given."""
    if not isinstance(value, dict) or (keys is not None and value.keys() != set(keys)):
        raise fail(name, "an object" if keys is None else f"an object of {', '.join(sorted(keys))}", value)
    return value


def attribute(name: str, value: object, depth: int = 0) -> Any:
    """Return an attribute: a number, a text, a truth value, or a tuple of them."""
    if isinstance(value, list) and depth < _DEEPEST:
        return tuple(attribute(name, one, depth + 1) for one in value)
    if not isinstance(value, int | float | str):
        raise fail(name, "numbers or texts", value)
    return value
