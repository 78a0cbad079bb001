"""Records of the LSTM: over a sequence, and one step whose states are ports of the program."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.attributes import BYTE, FLAG, REQUANTIZATION, whole
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I16
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.lstm.captured import captures
from zeroq_asr.operators.lstm.cases import sequence_cases, step_cases
from zeroq_asr.operators.lstm.cell import SIGMOID_PLACES, lstm, lstm_step
from zeroq_asr.operators.lstm.kernel import emit_sequence, emit_step, exact_if_sequence, exact_if_step
from zeroq_asr.operators.lstm.lowered import lower, plan_formats
from zeroq_asr.registry import (
    ALWAYS,
    ANY,
    OWN,
    Attribute,
    Constant,
    IntegerOperator,
    Kernel,
    Operator,
    Traits,
    register,
    spelled,
)

# -- floats ----------------------------------------------------------------------------------------


def _updated(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """h' and c' of the sums of the gates i, f, g and o [B, 4·H], and of c [B, H]."""
    i, keep, g, o = gates.chunk(4, dim=1)
    c = keep.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _step(
    x: Tensor, h: Tensor, c: Tensor, *, weight: Tensor, recurrent: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """h' and c' [B, H, 1] of x [B, I, 1], h and c; rows of the weights as torch has them: i, f, g, o."""
    gates = x[:, :, 0] @ weight.T + h[:, :, 0] @ recurrent.T + bias
    h, c = _updated(gates, c[:, :, 0])
    return h[:, :, None], c[:, :, None]


def _sequence(
    x: Tensor, *, weight: Tensor, recurrent: Tensor, bias: Tensor, backwards: bool
) -> tuple[Tensor, Tensor]:
    """Every h and c [B, H, T] of x [B, I, T], from states of zero on."""
    given = (x.transpose(1, 2) @ weight.T + bias).unbind(dim=1)
    h = c = x.new_zeros(x.shape[0], recurrent.shape[1])
    made = []
    for gates in reversed(given) if backwards else given:
        h, c = _updated(gates + h @ recurrent.T, c)
        made.append((h, c))
    hidden, cells = zip(*(reversed(made) if backwards else made), strict=True)
    return torch.stack(hidden, dim=2), torch.stack(cells, dim=2)


def _shape(node: FloatNode, operands: list[Shape]) -> Shape:
    return Shape(node.attrs["recurrent"].shape[1], operands[0].history)


def _parameters(w: Writer, node: FloatNode) -> list[str]:
    """W, R and B as ONNX has them: rows of i, o, f and g, and two biases."""

    def rows(name: str) -> np.ndarray:
        i, keep, g, o = np.split(node.attrs[name].numpy(), 4)
        return np.concatenate([i, o, keep, g])

    bias = rows("bias")
    both = np.concatenate([bias, np.zeros_like(bias)])
    return [w.store(rows("weight")[None]), w.store(rows("recurrent")[None]), w.store(both[None])]


def _spell_sequence(w: Writer, node: FloatNode) -> None:
    units, a = node.attrs["recurrent"].shape[1], node.attrs
    source = w.add("Transpose", [w.frames(node.ins[0])], perm=[1, 0, 2])
    direction = "reverse" if a["backwards"] else "forward"
    y = w.add("LSTM", [source, *_parameters(w, node)], hidden_size=units, direction=direction)
    # [T, 1, B, H]
    w.done(node, w.add("Transpose", [w.add("Squeeze", [y, w.axes(1)])], perm=[1, 0, 2]), True)


def _spell_step(w: Writer, node: FloatNode) -> None:
    units = node.attrs["recurrent"].shape[1]
    # [B, C, 1] → [1, B, C]
    x, h, c = (w.add("Transpose", [w.channels(name)], perm=[2, 0, 1]) for name in node.ins)
    made = [w.unique("LSTM") for _ in range(2)]
    w.add_of("LSTM", [x, *_parameters(w, node), "", h, c], ["", *made], hidden_size=units)
    for name, result in zip(node.outs, made, strict=True):
        w.add("Transpose", [result], name, perm=[1, 2, 0])


# -- integers --------------------------------------------------------------------------------------

_ATTRIBUTES: Mapping[str, Attribute] = {
    **REQUANTIZATION,
    "type": Attribute("uint8", lambda v: v == "uint8"),
    "zx": BYTE,
    "places": whole(0, SIGMOID_PLACES - 1, f"0 ≤ places < {SIGMOID_PLACES}"),
    "cell": whole(1, I16.hi, "1 ≤ cell < 2^15"),
    "cut": whole(1, 30, "1 ≤ cut ≤ 30"),
}


def _constants(first: int) -> dict[int, Constant]:
    found = [Constant(name, np.int8, 3) for name in ("w", "r")]
    found += [Constant(name, np.int32, 1) for name in ("bias", "m", "sigmoid", "tanh")]
    return {first + k: constant for k, constant in enumerate(found)}


def _check(view: Checked) -> None:
    """Require weights and tables that the derivation speaks of."""
    w, r, m = (view.constant(name) for name in ("w", "r", "m"))
    units = r.shape[1]
    view.require(r.shape == (4 * units, units, 1), f"recurrent weights are [4·H, H, 1], not {list(r.shape)}")
    view.require(w.shape[::2] == (4 * units, 1), f"weights are [{4 * units}, I, 1], not {list(w.shape)}")
    view.require(min(int(w.min()), int(r.min())) >= -127, "weights are symmetric: |w| ≤ 127")
    view.require(int(m.min()) >= 1, "every multiplier must be 1 or more")
    view.require_rows(4 * units, "bias", "m")
    for name, low, high in (("sigmoid", 0, 1 << SIGMOID_PLACES), ("tanh", I16.lo, -I16.lo)):
        table = view.constant(name)
        view.require(table.size % 2 == 0, f"{name} has as many entries below 0 as above")
        view.require(low <= table.min() and table.max() <= high, f"{name} lies in [{low}, {high}]")
    a = view.attrs
    view.require(a["lo"] <= a["zy"] <= a["hi"], "the hidden state can be zero")
    wanted = [w.shape[1]] if len(view.operands) == 1 else [w.shape[1], units, units]
    view.require(view.operands == wanted, f"takes {wanted} channels, its operands have {view.operands}")


def _frames(i: Instruction) -> str:
    """Forwards no frame hears a later one; backwards all hear those behind the end."""
    return ANY if i.attrs["backwards"] else OWN


def _lower_sequence(ctx: Lowering, node: FloatNode) -> None:
    lower(ctx, node, "lstm", backwards=bool(node.attrs["backwards"]))


def _lower_step(ctx: Lowering, node: FloatNode) -> None:
    lower(ctx, node, "lstm_step")


LSTM = register(
    Operator(
        "lstm",
        _sequence,
        captures=tuple(captures),
        shape=_shape,
        traits=Traits(reads_wide=ALWAYS, on_grid=True),
        spelling=_spell_sequence,
        lower=_lower_sequence,
        plan_formats=plan_formats,
        unseen=lambda node, operand, result: set() if node.attrs["backwards"] else result,
        integers=(
            IntegerOperator(
                "lstm",
                lstm,
                {**_ATTRIBUTES, "backwards": FLAG},
                _constants(1),
                check=_check,
                kernels={
                    "fused": Kernel(emit_sequence, exact_if_sequence, "LSTM by matrix products"),
                    "qdq": Kernel(spelled),
                },
                zero_points={"zx": 0},
                frames=_frames,
                results=2,
                # of 40 frames, over which the rounding of hidden states comes back
                tolerance={"lstm": 1.0},
                cases=sequence_cases,
            ),
        ),
    )
)

LSTM_STEP = register(
    Operator(
        "lstm_step",
        _step,
        shape=_shape,
        traits=Traits(framewise=True, reads_wide=ALWAYS, on_grid=True),
        spelling=_spell_step,
        lower=_lower_step,
        plan_formats=plan_formats,
        integers=(
            IntegerOperator(
                "lstm_step",
                lstm_step,
                _ATTRIBUTES,
                _constants(3),
                check=_check,
                kernels={
                    "fused": Kernel(emit_step, exact_if_step, "LSTM by matrix products"),
                    "qdq": Kernel(spelled),
                },
                zero_points={"zx": 0, "zy": 1},
                frames=OWN,
                results=2,
                # gates of 11 places, tables of 14, and a cell of 12
                tolerance={"lstm_step": 0.5 + 0.05},
                cases=step_cases,
            ),
        ),
    )
)
