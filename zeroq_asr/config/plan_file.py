"""The file of a plan: patterns of layers and values, with the grid or the bits of each, in order, as YAML.

    weights:
    - "*": int8
    - encoder.layers.*: int4
    values:
    - "*": 8
    - encoder.layers.0.*: 16
    logit_bits: 16

Every key may be left out.  A mapping stands for a list of its entries.  What a plan means is the matter of
``zeroq_asr.lowering.plan``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import yaml

from zeroq_asr.config.checks import text, whole
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import VALUE, printable, shorten, shown

T = TypeVar("T")

#: bits that the result of a single layer can have beside those of bytes
LAYER_BITS = 16
#: the pattern of everything
EVERYTHING = "*"
#: mappings and lists within each other
_MOST_NESTED = 8
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


def read_plan(source: str, where: str) -> tuple[Patterns[str], Patterns[int], int | None]:
    """Return the grids of weights, the bits of values, and the bits of the logits where a file says them.

    ``source``: the text of the file, ``where`` what errors call it.  Raises ConfigError for anything else.
    """
    try:
        data = yaml.load(source, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f"line {mark.line + 1}: "
        raise ConfigError(where, f"is no plan: {line}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that is none
        raise ConfigError(where, f"is no plan: {shorten(str(error), 200)}") from None
    keys = ("weights", "values", "logit_bits")
    if not isinstance(data, dict):
        problem = f"a plan is a mapping of {', '.join(keys)}, got {shown(data)}"
        raise ConfigError(where, problem)
    unknown = [key for key in data if key not in keys]
    if unknown:
        found = ", ".join(shown(key) for key in unknown[:8])
        raise ConfigError(where, f"a plan has no keys but {', '.join(keys)}, got {found}")
    bits = data.get("logit_bits")
    if bits is not None:
        whole(where, "logit_bits", bits, 8, 16)
    weights, values = (list(_entries(where, key, data.get(key))) for key in keys[:2])
    return layer_grids(where, weights), layer_bits(where, values), bits


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """Plain YAML: every key once, nothing nested deeply, and no aliases, which can stand for any size."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node, unless it is an alias or stands too deep."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refused("a plan has no aliases", event.start_mark)
        if self._depth == _MOST_NESTED:
            raise _refused("it is nested too deeply", event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose keys stand there once."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
            if name in seen:
                problem = f"the key {shown(name)} stands there twice"
                raise _refused(problem, key.start_mark)
            seen.add(name)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _entries(where: str, key: str, data: object) -> Iterable[tuple[object, object]]:
    for entry in data if isinstance(data, list) else [{} if data is None else data]:
        if not isinstance(entry, dict):
            raise ConfigError(where, f"{key} must list patterns as NAME: VALUE, got {shown(entry)}")
        yield from entry.items()


def write_plan(weights: Patterns[str], values: Patterns[int], logit_bits: int) -> str:
    """Return the text that ``read_plan`` reads."""
    data: dict[str, Any] = {"weights": [{name: grid} for name, grid in weights]}
    data |= {"values": [{name: bits} for name, bits in values], "logit_bits": logit_bits}
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
