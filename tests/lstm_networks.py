"""Networks with LSTMs, as modules and as float graphs of a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zeroq_asr.graph.float_graph import FloatGraph, FloatNode, FloatState

MELS, TOKENS = 8, 5


class Recognizer(nn.Module):
    """A linear layer, LSTMs, and a linear layer; ``time_major``: PyTorch's own default order of axes."""

    def __init__(self, units: int = 6, *, time_major: bool = False, **options: Any) -> None:
        super().__init__()
        self.time_major = time_major
        self.before = nn.Linear(MELS, MELS)
        self.lstm = nn.LSTM(MELS, units, batch_first=not time_major, **options)
        size = options.get("proj_size") or units
        self.after = nn.Linear(size * (2 if options.get("bidirectional") else 1), TOKENS)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = self.before(features.transpose(1, 2))
        x = x.transpose(0, 1) if self.time_major else x
        y = self.lstm(x)[0]
        return self.after(y.transpose(0, 1) if self.time_major else y), lengths


def recognizer(**options: Any) -> Recognizer:
    torch.manual_seed(0)
    network = Recognizer(**options).eval().requires_grad_(False)
    for name, tensor in network.named_parameters():
        if "lstm" in name:
            tensor *= 3
    return network


def example(frames: int = 20, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, MELS, frames, generator=generator), torch.full((batch,), frames)


def step_graph(layers: int, inputs: int, units: int, *, gain: float = 3.0) -> FloatGraph:
    """Layers of one step each, whose states are ports: x [B, I, 1] → h of the last [B, H, 1]."""
    torch.manual_seed(2)
    nodes, states, x, takes = [], [], "x", inputs
    for k in range(layers):
        torch_cell = nn.LSTMCell(takes, units).requires_grad_(False)
        attrs = {
            "weight": torch_cell.weight_ih * gain,
            "recurrent": torch_cell.weight_hh * gain,
            "bias": (torch_cell.bias_ih + torch_cell.bias_hh) * gain,
        }
        ins, outs = (x, f"h{k}", f"c{k}"), (f"h{k}.next", f"c{k}.next")
        nodes.append(FloatNode("lstm_step", outs[0], ins, attrs, f"layer.{k}", others=outs[1:]))
        states += [
            FloatState(name, name, leaves, ("batch", units, 1))
            for name, leaves in zip(ins[1:], outs, strict=True)
        ]
        x, takes = outs[0], units
    return FloatGraph(("x",), (x,), nodes, ("y",), tuple(states), single=("x",))
