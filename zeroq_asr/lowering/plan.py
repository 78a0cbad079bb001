"""A plan: which layer's weights lie on which grid, and which value has how many bits.

Patterns are in order, and later ones win: a layer's path, a value's name, or a glob of them.  ``Plan.of`` is
the plan that options spell; ``to_yaml`` and ``from_yaml`` keep one in a file
(``zeroq_asr.config.plan_file``).

A value of 2 to 8 bits is unsigned bytes; one of 16 is an int32, where what makes it and what reads it can
have that.  Streams (``zeroq_asr.lowering.formats``) and the logits have widths of their own, whatever a plan
says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from zeroq_asr.config import LAYER_BITS, QuantSpec
from zeroq_asr.config.checks import whole
from zeroq_asr.config.plan_file import EVERYTHING, layer_bits, layer_grids, read_plan, write_plan
from zeroq_asr.config.quantization import FINEST
from zeroq_asr.errors import ConfigError, warn
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.graph.shapes import infer
from zeroq_asr.integer.grid import Grid, grid_of, symmetric
from zeroq_asr.lowering.formats import made_by, moved_from, named_values, wide_values
from zeroq_asr.registry import traits_of

#: what nothing is said of
_BITS = 8


@dataclass(frozen=True)
class Plan:
    """Grids of weights and bits of values by pattern, in order; later patterns win."""

    #: pattern → name of a grid; int8 where none matches
    weights: tuple[tuple[str, str], ...] = ((EVERYTHING, "int8"),)
    #: pattern → 2 to 8, or 16; 8 where none matches
    values: tuple[tuple[str, int], ...] = ((EVERYTHING, _BITS),)
    logit_bits: int = 16
    #: bits of the weights of sensitive layers, which are depthwise, the first or the last, where no pattern
    #: but that of everything names them; None: as all others
    sensitive_bits: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", layer_grids("Plan", self.weights))
        object.__setattr__(self, "values", layer_bits("Plan", self.values))
        whole("Plan", "logit_bits", self.logit_bits, 8, 16)
        if self.sensitive_bits is not None:
            whole("Plan", "sensitive_bits", self.sensitive_bits, 1, 8)

    @property
    def is_coarse(self) -> bool:
        """Whether it names a grid other than that of 8 bits, at which rounding by feedback gains nothing."""
        return any(grid != FINEST for _, grid in self.weights)

    @classmethod
    def of(cls, spec: QuantSpec) -> Plan:
        """Return the plan that options spell: what they say of everything first."""
        # as many bits as all others have, but on another grid where one is named for everything
        everything = any(pattern == EVERYTHING for pattern, _ in spec.layer_grids)
        alike = spec.sensitive == spec.weight_bits and not (everything and spec.sensitive_bits is not None)
        return cls(
            ((EVERYTHING, symmetric(spec.weight_bits).name), *spec.layer_grids),
            ((EVERYTHING, spec.activation_bits), *spec.layer_bits),
            spec.logit_bits,
            None if alike else spec.sensitive,
        )

    @classmethod
    def from_yaml(cls, source: str) -> Plan:
        """Return the plan that ``to_yaml`` wrote; ConfigError for what is none."""
        weights, values, logit_bits, sensitive_bits = read_plan(source, "plan")
        return cls(weights, values, cls.logit_bits if logit_bits is None else logit_bits, sensitive_bits)

    def to_yaml(self) -> str:
        """Return the plan as the text of a file."""
        return write_plan(self.weights, self.values, self.logit_bits, self.sensitive_bits)

    def resolve(self, graph: FloatGraph) -> ResolvedPlan:
        """Return what the plan says of every value and layer of a graph, islands and all.

        Raises ConfigError for a pattern that names nothing, or nothing that it could be of, and for a grid
        that nobody registered.
        """
        grids: dict[str, Grid] = {}
        grid = symmetric(_BITS)
        finer: dict[str, Grid] = {}
        if self.sensitive_bits is not None:
            finer = dict.fromkeys(sensitive_layers(graph), symmetric(self.sensitive_bits))
        for pattern, name in self.weights:
            found = grid_of(name)
            if pattern == EVERYTHING:
                grids, grid = dict(finer), found
            else:
                grids |= dict.fromkeys(_layers(graph, pattern), found)
        bits, default = _bytes(graph, self.values)
        wide = frozenset(named_values(graph, self.values))
        return ResolvedPlan(bits, wide, grids, self.logit_bits, default, grid)


@dataclass(frozen=True)
class ResolvedPlan:
    """What a plan says of the values and layers of one graph."""

    #: value → bits of its bytes, 2 to 8, where they are not the ``byte_default``
    bits: Mapping[str, int]
    #: values of 16 bits by name
    wide: frozenset[str]
    #: layer, by its result → grid of its weights, where that is not the ``grid_default``
    grids: Mapping[str, Grid]
    logit_bits: int
    byte_default: int
    grid_default: Grid

    def byte_bits(self, name: str) -> int:
        """Bits of a value's bytes, 2 to 8; of one of 16 bits, those of the copies that others read."""
        return self.bits.get(name, self.byte_default)

    def value_bits(self, name: str) -> int:
        """Bits of a value: 16, or those of its bytes."""
        return LAYER_BITS if name in self.wide else self.byte_bits(name)

    def grid(self, node: FloatNode) -> Grid:
        """The grid of a layer's weights."""
        return self.grids.get(node.out, self.grid_default)


def sensitive_layers(graph: FloatGraph) -> list[str]:
    """Results of the layers whose weights lose most for few bytes: depthwise ones, the first and the last."""
    holding = [node for node in graph.nodes if traits_of(node).holds_weight]
    ends = {node.out for node in (*holding[:1], *holding[-1:])}
    return [
        node.out
        for node in holding
        if node.out in ends or node.attrs["weight"].shape[1] == 1 < node.attrs["groups"]
    ]


def warn_of_recurrent(graph: FloatGraph, left: str, remedy: str = "") -> None:
    """Warn that the weights of LSTMs, which plans put on grids, are ``left``, where a network has any."""
    for node in graph.nodes:
        if traits_of(node).on_grid and not traits_of(node).holds_weight:
            warn(node.where or node.out, f"the weights of its {node.op} are {left}", remedy)


def _layers(graph: FloatGraph, pattern: str) -> list[str]:
    """Results of the layers that a pattern names and that have weights."""
    nodes = made_by(graph, pattern)
    found = [node.out for node in nodes if traits_of(node).holds_weight or traits_of(node).on_grid]
    if not found:
        ops = ", ".join(sorted({node.op for node in nodes}))
        raise ConfigError("grid", f"{pattern!r} names {ops}, which has no weights on a grid", "name another")
    return found


def _bytes(graph: FloatGraph, values: Iterable[tuple[str, int]]) -> tuple[dict[str, int], int]:
    """Return value → bits of its bytes, and those of every other."""
    found: dict[str, int] = {}
    default, producer = _BITS, graph.producer()
    narrow = [(pattern, bits) for pattern, bits in values if bits != LAYER_BITS]
    fixed = _fixed(graph) if any(pattern != EVERYTHING for pattern, _ in narrow) else set()
    for pattern, bits in narrow:
        if pattern == EVERYTHING:
            found, default = {}, bits
            continue
        given = [name for name in graph.inputs if fnmatchcase(name, pattern)]
        makers = [] if given else [moved_from(node, producer) for node in made_by(graph, pattern)]
        able = [*given, *(name for node in makers for name in node.outs if name not in fixed)]
        if not able:
            ops = ", ".join(sorted({node.op for node in makers}))
            problem = f"{pattern!r} names {ops} of a residual stream, of lengths or of the logits"
            raise ConfigError("bits", f"{problem}, whose bits are fixed", "name another, or leave it out")
        found |= dict.fromkeys(able, bits)
    return found, default


def _fixed(graph: FloatGraph) -> set[str]:
    """Values whose bits no plan decides."""
    producer = graph.producer()
    shapes = infer(graph)
    fixed = {name for name, shape in shapes.items() if shape.lengths}
    if graph.output_ports[0] == "logits" and graph.outputs[0] in producer:
        fixed.add(moved_from(producer[graph.outputs[0]], producer).out)
    return fixed.union(*wide_values(graph))
