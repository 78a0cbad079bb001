"""The file of a plan: patterns of layers and values, with the grid or the bits of each, in order, as YAML.

    weights:
    - "*": int8
    - encoder.layers.*: int4
    values:
    - "*": 8
    - encoder.layers.0.*: 16
    logit_bits: 16
    sensitive_bits: 8

Every key may be left out.  A mapping stands for a list of its entries.  What a plan means is the matter of
``zeroq_asr.lowering.plan``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from zeroq_asr.config.checks import text, whole
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import VALUE, printable, shorten, shown

T = TypeVar("T")

#: bits that the result of a single layer can have beside those of bytes
LAYER_BITS = 16
#: the pattern of everything
EVERYTHING = "*"
#: pairs of a pattern and what it stands for
Patterns = tuple[tuple[str, T], ...]


def layer_bits(where: str, value: object) -> Patterns[int]:
    """Return pairs of a pattern and the bits of results, 2 to 8 or 16; ConfigError where they are none."""

    def bits(pattern: str, found: object) -> int:
        if isinstance(found, bool) or not isinstance(found, int) or found not in (*range(2, 9), LAYER_BITS):
            name = printable(shorten(pattern, VALUE))
            problem = (
                f"{name} cannot have {shown(found)} bits: a single layer can have {LAYER_BITS}, or 2 to 8"
            )
            raise ConfigError(where, problem, f"write --bits '{name}={LAYER_BITS}', or leave it out")
        return found

    return _pairs(where, "layer_bits", f"{LAYER_BITS}, or 2 to 8", value, bits)


def layer_grids(where: str, value: object) -> Patterns[str]:
    """Return pairs of a pattern and the name of a grid of weights; ConfigError where they are none."""

    def grid(pattern: str, found: object) -> str:
        text(where, f"the grid of {printable(shorten(pattern, VALUE))}", found)
        return str(found)

    return _pairs(where, "layer_grids", "a grid's name", value, grid)


def _pairs(
    where: str, field: str, what: str, value: object, checked: Callable[[str, object], T]
) -> Patterns[T]:
    pairs = []
    for pair in value if isinstance(value, tuple | list) else (value,):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ConfigError(where, f"{field} must be pairs of a name and {what}, got {shown(pair)}")
        text(where, f"a name of {field}", pair[0])
        pairs.append((str(pair[0]), checked(str(pair[0]), pair[1])))
    return tuple(pairs)


def read_plan(source: str, where: str) -> tuple[Patterns[str], Patterns[int], int | None, int | None]:
    """Return grids of weights, bits of values, and bits of logits and of sensitive weights, if any.

    ``source``: the text of the file, ``where`` what errors call it.  Raises ConfigError for anything else.
    """
    from zeroq_asr.config.yaml_text import read_yaml  # not every command waits for a parser of YAML

    data = read_yaml(source, where, ConfigError)
    keys = ("weights", "values", "logit_bits", "sensitive_bits")
    if not isinstance(data, dict):
        problem = f"a plan is a mapping of {', '.join(keys)}, got {shown(data)}"
        raise ConfigError(where, problem)
    unknown = [key for key in data if key not in keys]
    if unknown:
        found = ", ".join(shown(key) for key in unknown[:8])
        raise ConfigError(where, f"a plan has no keys but {', '.join(keys)}, got {found}")
    bits, sensitive = data.get("logit_bits"), data.get("sensitive_bits")
    if bits is not None:
        whole(where, "logit_bits", bits, 8, 16)
    if sensitive is not None:
        whole(where, "sensitive_bits", sensitive, 1, 8)
    weights, values = (list(_entries(where, key, data.get(key))) for key in keys[:2])
    return layer_grids(where, weights), layer_bits(where, values), bits, sensitive


def _entries(where: str, key: str, data: object) -> Iterable[tuple[object, object]]:
    for entry in data if isinstance(data, list) else [{} if data is None else data]:
        if not isinstance(entry, dict):
            raise ConfigError(where, f"{key} must list patterns as NAME: VALUE, got {shown(entry)}")
        yield from entry.items()


def write_plan(
    weights: Patterns[str], values: Patterns[int], logit_bits: int, sensitive_bits: int | None = None
) -> str:
    """Return the text that ``read_plan`` reads."""
    data: dict[str, Any] = {"weights": [{name: grid} for name, grid in weights]}
    data |= {"values": [{name: bits} for name, bits in values], "logit_bits": logit_bits}
    data |= {} if sensitive_bits is None else {"sensitive_bits": sensitive_bits}
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
