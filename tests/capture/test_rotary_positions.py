"""Rotary positions are recognised in every spelling, and what is none is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zeroq_asr.capture.capture import capture
from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.graph.float_graph import FloatGraph

HEADS, SIZE, WIDTH = 3, 8, 24
#: (module, queries or keys [B, T, H, E]) → the same, turned
Turn = Callable[["Attention", Tensor], Tensor]


def half(x: Tensor) -> Tensor:
    return torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)


def tables(module: Attention, frames: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(frames).float()[:, None] * module.frequencies
    return angles.cos(), angles.sin()


def by_halves(module: Attention, x: Tensor) -> Tensor:
    cos, sin = (torch.cat((table, table), -1)[None, :, None] for table in tables(module, x.shape[1]))
    return x * cos + half(x) * sin


def by_chunks(module: Attention, x: Tensor) -> Tensor:
    cos, sin = (table[None, :, None] for table in tables(module, x.shape[1]))
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def by_pairs(module: Attention, x: Tensor) -> Tensor:
    cos, sin = (table[None, :, None] for table in tables(module, x.shape[1]))
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


def by_complex_numbers(module: Attention, x: Tensor) -> Tensor:
    angles = torch.outer(torch.arange(x.shape[1]).float(), module.frequencies)
    turns = torch.polar(torch.ones_like(angles), angles)[None, :, None]
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * turns).flatten(3)


def by_stored_tables(module: Attention, x: Tensor) -> Tensor:
    frames, x = x.shape[1], x.transpose(1, 2)
    return (x * module.cos[:frames] + half(x) * module.sin[:frames]).transpose(1, 2)


def by_looking_up(module: Attention, x: Tensor) -> Tensor:
    numbers = torch.arange(x.shape[1])
    cos, sin = module.cos[numbers][None, :, None], module.sin[numbers][None, :, None]
    return x * cos + half(x) * sin


def by_products_of_numbers(module: Attention, x: Tensor) -> Tensor:
    numbers = torch.arange(x.shape[1])[None, None].float()
    angles = (module.frequencies[None, :, None] @ numbers).transpose(1, 2)
    angles = torch.cat((angles, angles), dim=-1)[:, :, None]
    return (x * angles.cos()) + (half(x) * angles.sin())


def by_rolling(module: Attention, x: Tensor) -> Tensor:
    cos, sin = (torch.cat((table, table), -1)[None, :, None] for table in tables(module, x.shape[1]))
    signs = torch.tensor([-1.0, 1.0]).repeat_interleave(SIZE // 2)
    return torch.addcmul(x * cos, x.roll(SIZE // 2, -1), sin * signs)


def of_some_channels(module: Attention, x: Tensor) -> Tensor:
    cos, sin = (torch.cat((table, table), -1)[None, :, None] for table in tables(module, x.shape[1]))
    turned, rest = x[..., :4], x[..., 4:]
    return torch.cat((turned * cos[..., ::2] + half(turned) * sin[..., ::2], rest), dim=-1)


def of_pairs_set_apart(module: Attention, x: Tensor) -> Tensor:
    """Pairs become halves on the way."""
    x = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    return by_halves(module, x)


def scaled(module: Attention, x: Tensor) -> Tensor:
    return by_halves(module, x) * 1.5


SPELLINGS: dict[str, Turn] = {
    turn.__name__: turn
    for turn in (
        by_halves,
        by_chunks,
        by_pairs,
        by_complex_numbers,
        by_stored_tables,
        by_looking_up,
        by_products_of_numbers,
        by_rolling,
        of_some_channels,
        of_pairs_set_apart,
        scaled,
    )
}


class Attention(nn.Module):
    """Attention with a matrix of all three operands, whose queries and keys ``turn`` turns."""

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.turn = turn
        self.joint, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 5)
        self.register_buffer("frequencies", 1.0 / 10.0 ** (torch.arange(0, SIZE, 2) / SIZE))
        cos, sin = (torch.cat((table, table), -1) for table in tables(self, 64))
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = features.transpose(1, 2)
        batch, frames, _ = x.shape
        parts = self.joint(x).view(batch, frames, 3, HEADS, SIZE).unbind(2)
        query, key, value = (
            part.transpose(1, 2) for part in (*(self.turn(self, p) for p in parts[:2]), parts[2])
        )
        valid = torch.arange(frames)[None, :] < lengths[:, None]
        scores = query @ key.transpose(2, 3) * SIZE**-0.5
        weights = torch.softmax(scores.masked_fill(~valid[:, None, None], -torch.inf), dim=-1)
        return self.out((weights @ value).transpose(1, 2).reshape(batch, frames, WIDTH)), lengths


def captured(turn: Turn) -> tuple[Attention, FloatGraph]:
    torch.manual_seed(0)
    module = Attention(turn).eval().requires_grad_(False)
    return module, capture(module, (torch.randn(2, WIDTH, 20), torch.tensor([20, 13])), "module")


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_one_node(name: str) -> None:
    module, graph = captured(SPELLINGS[name])
    turns = [node for node in graph.nodes if node.op == "rotate"]
    assert len(turns) == 2
    assert not {node.op for node in graph.nodes} & {"affine", "add", "mul"}
    for node in turns:
        a, b = node.attrs["coefficients"](40)
        assert a.shape == b.shape == (WIDTH, 40)
        torch.testing.assert_close(a**2 + b**2, torch.ones_like(a))
        # the other of a pair is in the same head, and both turn alike
        pair = node.attrs["pair"]
        assert [pair[other] for other in pair] == list(range(WIDTH))
        assert all(c // SIZE == other // SIZE for c, other in enumerate(pair))
        torch.testing.assert_close(a[list(pair)], a)
        torch.testing.assert_close(b[list(pair)], -b)
    for frames in (1, 20, 57):
        x, lengths = torch.randn(3, WIDTH, frames), torch.tensor([frames, frames // 2 + 1, 1])
        expected, found = module(x, lengths)[0], graph.run(x, lengths)[0]
        valid = torch.arange(frames)[None] < lengths[:, None]
        torch.testing.assert_close(found[valid], expected[valid], atol=1e-4, rtol=1e-4)


class Gate(nn.Module):
    """Halves of the channels are multiplied, one of them backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.joint, self.out = nn.Linear(WIDTH, 10), nn.Linear(5, 3)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.joint(features.transpose(1, 2)).chunk(2, dim=-1)
        return -self.out(a * -b.flip(-1)), lengths


def test_moves_of_channels_are_moves() -> None:
    module, example = Gate().eval().requires_grad_(False), (torch.randn(2, WIDTH, 9), torch.tensor([9, 4]))
    graph = capture(module, example, "gate")
    moves = [node.attrs["index"] for node in graph.nodes if node.op == "take_channels"]
    assert moves == [(0, 1, 2, 3, 4), (9, 8, 7, 6, 5)]
    assert "rotate" not in {node.op for node in graph.nodes}
    torch.testing.assert_close(graph.run(*example)[0], module(*example)[0], atol=1e-4, rtol=1e-4)


def of_neighbours(module: Attention, x: Tensor) -> Tensor:
    """The frame before takes part."""
    cos, sin = (torch.cat((table, table), -1)[None, :, None] for table in tables(module, x.shape[1]))
    return x * cos + x.flip(1) * sin


def of_three_channels(module: Attention, x: Tensor) -> Tensor:
    cos, sin = (torch.cat((table, table), -1)[None, :, None] for table in tables(module, x.shape[1]))
    return x * cos + half(x) * sin + x.flip(-1) * sin


def of_its_own_products(module: Attention, x: Tensor) -> Tensor:
    return x * half(x)


@pytest.mark.parametrize("turn", [of_neighbours, of_three_channels])
def test_what_is_no_rotation_is_refused(turn: Turn) -> None:
    with pytest.raises(UnsupportedOperatorError, match="neither a move of them nor rotary positions"):
        captured(turn)


def test_products_of_an_activation_with_itself_are_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"operator aten\.mul\.Tensor"):
        captured(of_its_own_products)
