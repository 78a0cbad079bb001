"""One network at several widths of its weights, each lowered once, and every mixture of them.

What a layer's integers are depends on its own grid and on the formats of what it reads and makes, which no
grid changes.  So the program of a plan of mixed widths has each layer from the program in which all have that
layer's width, and needs no lowering of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.config.plan_file import EVERYTHING
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.integer.grid import symmetric
from zeroq_asr.integer.packing import BYTES
from zeroq_asr.integer.program import Instruction, Program
from zeroq_asr.lowering.plan import Plan
from zeroq_asr.operators.convolution.weights import as_bytes
from zeroq_asr.pipeline import Prepared, build
from zeroq_asr.registry import traits_of

#: what the constants of a layer are called, behind its own name, in the order of its operands
_PARTS = ("weight", "bias", "multiplier")


def _groups(layers: Sequence[FloatNode]) -> list[tuple[FloatNode, ...]]:
    """Return the layers that a plan cannot tell apart together: the name of one is the path of the other."""
    group = {node.out: [node] for node in layers}
    for node in layers:
        if node.where in group and group[node.where] is not group[node.out]:
            together = group[node.where]
            together += group[node.out]
            group |= dict.fromkeys((other.out for other in together), together)
    return [tuple(together) for together in {id(found): found for found in group.values()}.values()]


class Widths:
    """The programs of a prepared network whose layers all have so many bits, made as they are asked for."""

    def __init__(self, prepared: Prepared, base: Plan) -> None:
        """``base``: a plan, of which weights of all layers are given the width that is asked for."""
        self.prepared, self.base = prepared, base
        self._programs: dict[int, Program] = {}
        self._code: dict[int, dict[str, Instruction]] = {}
        made = {instruction.out for instruction in self.program(8).code}
        #: those whose weights are integers: none inside of what is kept in float
        self.layers = [
            node for node in prepared.graph.nodes if traits_of(node).holds_weight and node.out in made
        ]
        self._names = frozenset(node.out for node in self.layers)
        self.groups = _groups(self.layers)

    def plan(self, bits: Mapping[str, int]) -> Plan:
        """Return the plan that gives layers, by result, so many bits, and 8 where nothing is said.

        All layers of a group must have as many.
        """
        grids = ((name, symmetric(width).name) for name, width in bits.items() if width != 8)
        return replace(self.base, weights=((EVERYTHING, symmetric(8).name), *grids), sensitive_bits=None)

    def program(self, width: int) -> Program:
        """Return the program whose layers all have ``width`` bits."""
        if width not in self._programs:
            everything = ((EVERYTHING, symmetric(width).name),)
            plan = replace(self.base, weights=everything, sensitive_bits=None)
            self._programs[width] = program = build(self.prepared, plan)
            self._code[width] = {instruction.out: instruction for instruction in program.code}
        return self._programs[width]

    def mixed(self, bits: Mapping[str, int]) -> Program:
        """Return the program of ``plan(bits)``, which is that which ``build`` makes of it."""
        whole = self.program(8)
        constants: dict[str, np.ndarray] = {}
        packings: dict[str, str] = {}
        known: dict[tuple[object, ...], str] = {}
        code = []
        for instruction in whole.code:
            width = bits.get(instruction.out, 8) if instruction.out in self._names else 8
            source = self.program(width)
            found = self._code[width][instruction.out]
            ins = []
            for place, name in enumerate(found.ins):
                if name in source.constants:
                    array, packing = source.constants[name], source.packings.get(name, BYTES)
                    # as lowering does, equal constants of one kind are one
                    kind = name.rpartition(":")[2]
                    own = f"{found.out}:{kind}" if found.out in self._names and 1 <= place <= 3 else name
                    key = (kind, array.dtype.str, array.shape, array.tobytes(), packing)
                    name = known.setdefault(key, own)
                    constants[name] = array
                    if packing != BYTES:
                        packings[name] = packing
                ins.append(name)
            code.append(replace(found, ins=tuple(ins)))
        return replace(whole, code=code, constants=constants, packings=packings)

    def real(self, node: FloatNode, width: int) -> tuple[Tensor, Tensor]:
        """Return the weights, of their own shape, and biases [O] that a layer's integers stand for."""
        program = self.program(width)
        instruction = self._code[width][node.out]
        weight, bias, multiplier = (
            program.constants[name].astype(np.float64) for name in instruction.ins[1 : 1 + len(_PARTS)]
        )
        source, target = as_bytes(program.values[instruction.ins[0]]), program.values[instruction.out]
        step = multiplier * target.scale / 2.0 ** instruction.attrs["c"] / source.scale
        shape = tuple(node.attrs["weight"].shape)
        real = (weight.reshape(len(weight), -1) * step[:, None]).reshape(shape)
        return torch.from_numpy(real).float(), torch.from_numpy(bias * step * source.scale).float()
