"""Float graphs written down node by node."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zeroq_asr.graph.float_graph import FloatGraph, FloatNode

MELS, HIDDEN, TOKENS = 8, 16, 5


class Builder:
    """Nodes with weights of a seed; the method names are those of the operators."""

    def __init__(self, inputs: tuple[str, str] = ("audio_signal", "length")) -> None:
        self.inputs = inputs
        self.nodes: list[FloatNode] = []
        self.generator = torch.Generator().manual_seed(0)

    def node(self, op: str, *ins: str, **attrs: Any) -> str:
        out = f"{op}{len(self.nodes)}"
        self.nodes.append(FloatNode(op, out, ins, attrs, f"layer.{len(self.nodes)}"))
        return out

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def linear(self, x: str, takes: int, gives: int, **attrs: Any) -> str:
        layout = {"stride": 1, "padding": (0, 0), "dilation": 1, "groups": 1}
        weight = self.random(gives, takes, 1) / takes**0.5
        return self.node("conv1d", x, weight=weight, bias=self.random(gives) / 10, **layout, **attrs)

    def norm(self, x: str) -> str:
        weight, bias = 1 + self.random(HIDDEN) / 10, self.random(HIDDEN) / 10
        return self.node("layer_norm", x, weight=weight, bias=bias, epsilon=1e-5)

    def graph(self, x: str, lengths: str = "length") -> FloatGraph:
        logits = self.node("transpose", self.linear(x, HIDDEN, TOKENS), perm=(0, 2, 1))
        return FloatGraph(self.inputs, (logits, lengths), self.nodes)
