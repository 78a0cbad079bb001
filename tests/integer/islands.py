"""A program with a float island, as the lowering writes one."""

from __future__ import annotations

import torch

from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.program import Instruction, Program, ValueInfo, ctc_ports
from zeroq_asr.operators.float_island.body import float_body


def with_island() -> Program:
    """A program whose convolution runs in float: weights, a mask's lengths, and a body of the lowering's."""
    weight = torch.ones(3, 4, 3)
    layout = {"stride": 1, "padding": (1, 1), "dilation": 1, "groups": 1, "bias": torch.zeros(3)}
    nodes = [
        FloatNode("mask_time", "m", ("q", "length")),
        FloatNode("conv1d", "c", ("m",), {"weight": weight, **layout}),
    ]
    island = FloatNode("float_island", "c", ("q", "length"), {"nodes": (*nodes,)}, "layer")
    shapes = {"q": Shape(4, ()), "m": Shape(4, ()), "c": Shape(3, ()), "length": Shape(lengths=True)}
    body, activations, lengths, weights = float_body(island, shapes, longest=1)
    words = {"lo": -32768, "hi": 32767, "type": "int32"}
    way_in = {"scale": 0.1, "zero_point": 7, "lo": 0, "hi": 255, "type": "uint8"}
    attrs = {"scales": (0.1,), "zx": (7,), "lengths": 1, "body": body, "layers": ("layer",)}
    attrs |= {"scale": 0.5, "zero_point": 0, **words}
    code = [
        Instruction("quantize_input", "q", ("audio_signal",), way_in, "input"),
        Instruction("float_island", "c", (*activations, *lengths, *weights), attrs, "layer"),
        Instruction("transpose", "logits", ("c",), {"perm": (0, 2, 1)}, "logits"),
    ]
    values = {"q": ValueInfo("uint8", 0.1, 7, 0, 255), "c": ValueInfo("int32", 0.5, 0, -32768, 32767)}
    inputs, outputs = ctc_ports(
        4, 3, features="audio_signal", lengths="length", logits="logits", encoded="length"
    )
    return Program(inputs, outputs, code, weights, values, max_frames=100)
