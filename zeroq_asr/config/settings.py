"""Fields of specifications by their names alone, whichever specification has them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown


def with_fields(where: str, values: Mapping[str, Any], *specs: Any) -> tuple[Any, ...]:
    """Return ``specs``, frozen dataclasses, with the fields that ``values`` names changed.

    Raises ConfigError for a name that none has, or a value that its specification refuses.
    """
    places = {field.name: i for i, spec in enumerate(specs) for field in dataclasses.fields(spec)}
    refuse_unknown(where, "a field", values, places)
    changes: list[dict[str, Any]] = [{} for _ in specs]
    for name, value in values.items():
        changes[places[name]][name] = value
    return tuple(dataclasses.replace(spec, **fields) for spec, fields in zip(specs, changes, strict=True))


def refuse_unknown(where: str, what: str, names: Iterable[object], known: Collection[str]) -> None:
    """Raise ConfigError for the first of ``names`` that is not ``known``, with the nearest that is."""
    for name in names:
        if not isinstance(name, str) or name not in known:
            near = difflib.get_close_matches(str(name), known, 1, 0.6)
            remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(where, f"{shown(name)} is not {what}", remedy)
