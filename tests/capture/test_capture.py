"""Capture by torch.export: many ways to write the same network, and networks it must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeroq_asr.calibration.calibrate import calibrate
from zeroq_asr.capture.capture import capture
from zeroq_asr.capture.dispatch import supported
from zeroq_asr.config import CalibrationSpec, QuantSpec
from zeroq_asr.errors import CaptureError, UnsupportedOperatorError, ZeroqError
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.integer.proof import prove
from zeroq_asr.lowering.lower import lower
from zeroq_asr.registry import operator_of

MELS, HIDDEN, TOKENS = 6, 8, 5
FRAMES = 24

Forward = Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor]]


class Small(nn.Module):
    """Convolution, something, and a convolution that looks at neighbours; ``body`` is the something."""

    def __init__(self, body: Forward, **layers: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv1d(MELS, HIDDEN, 3, padding=1)
        self.last = nn.Conv1d(HIDDEN, TOKENS, 3, padding=1)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body = body

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x, lengths = self.body(self, self.first(x), lengths)
        return self.last(x).transpose(1, 2), lengths


class Whole(nn.Module):
    """A network whose whole forward is given."""

    def __init__(self, forward: Forward, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body = forward

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return self.body(self, x, lengths)


def prepare(network: nn.Module) -> nn.Module:
    """Random weights and statistics, in eval mode."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 3)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return network.eval().requires_grad_(False)


def example() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    # odd and even, full and partial: no accident of a length may hide a misread mask
    return torch.randn(3, MELS, FRAMES, generator=generator), torch.tensor([FRAMES, 17, 10])


def captured(network: nn.Module) -> FloatGraph:
    """Capture, and compare on batches and lengths that the capture itself never saw."""
    network = prepare(network)
    graph = capture(network, example(), "small")
    assert all(operator_of(node).meaning for node in graph.nodes)
    for batch, frames, lengths in ((1, 40, [40]), (2, 31, [31, 9]), (4, 19, [3, 19, 1, 18])):
        x, n = torch.randn(batch, MELS, frames), torch.tensor(lengths)
        wanted, wanted_lengths = network(x, n)
        found, found_lengths = graph.run(x, n)
        # a convolution without padding makes too short an utterance shorter than nothing
        assert torch.equal(found_lengths, wanted_lengths.clamp(min=0).to(torch.int64))
        assert found.shape == wanted.shape
        for i, valid in enumerate(found_lengths.tolist()):
            a, b = found[i, :valid], wanted[i, :valid]
            # up to a constant a frame where a log-softmax ended the network
            a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    return graph


def ops(graph: FloatGraph) -> list[str]:
    return [node.op for node in graph.nodes]


def index(x: Tensor) -> Tensor:
    return torch.arange(x.shape[2])


def full_length() -> tuple[Tensor, Tensor]:
    """An example on which every mask is all true: the check on it sees no mask."""
    return torch.randn(2, MELS, FRAMES), torch.tensor([FRAMES, FRAMES])


# -- masks ---------------------------------------------------------------------------------------

MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mul": lambda x, n: x * (index(x)[None] < n[:, None])[:, None],
    "mul float": lambda x, n: x * (index(x)[None] < n[:, None]).float()[:, None],
    "mul to dtype": lambda x, n: x * (index(x)[None] < n[:, None])[:, None].to(x.dtype),
    "mul type_as": lambda x, n: x * (index(x)[None] < n[:, None])[:, None].type_as(x),
    "mul reversed": lambda x, n: (index(x)[None] < n[:, None])[:, None].float() * x,
    "mul in place": lambda x, n: x.clone().mul_((index(x)[None] < n[:, None])[:, None]),
    "masked_fill ge": lambda x, n: x.masked_fill((index(x)[None] >= n[:, None])[:, None], 0.0),
    "masked_fill integer zero": lambda x, n: x.masked_fill((index(x)[None] >= n[:, None])[:, None], 0),
    "masked_fill not": lambda x, n: x.masked_fill(~(index(x)[None] < n[:, None])[:, None], 0.0),
    "masked_fill logical_not": lambda x, n: x.masked_fill(
        torch.logical_not(index(x)[None] < n[:, None])[:, None], 0.0
    ),
    "masked_fill le reversed": lambda x, n: x.masked_fill((n[:, None] <= index(x)[None])[:, None], 0.0),
    "masked_fill in place": lambda x, n: x.clone().masked_fill_((index(x)[None] >= n[:, None])[:, None], 0.0),
    "where": lambda x, n: torch.where((index(x)[None] < n[:, None])[:, None], x, 0.0),
    "where tensor": lambda x, n: torch.where((index(x)[None] < n[:, None])[:, None], x, torch.tensor(0.0)),
    "where zeros_like": lambda x, n: torch.where(
        (index(x)[None] < n[:, None])[:, None], x, torch.zeros_like(x)
    ),
    "where reversed": lambda x, n: torch.where((index(x)[None] >= n[:, None])[:, None], 0.0, x),
    "where not": lambda x, n: torch.where(~(index(x)[None] < n[:, None])[:, None], 0.0, x),
    "gt": lambda x, n: x * (n[:, None] > index(x)[None])[:, None],
    "ge minus one": lambda x, n: x * (n[:, None] - 1 >= index(x)[None])[:, None],
    "written by a mask": lambda x, n: zeroed(x, n),
    "looked up": lambda x, n: (
        x * (index(x)[None] < n[:, None])[torch.arange(x.shape[0])[:, None], index(x)[None]][:, None]
    ),
    "and what always holds": lambda x, n: (
        x
        * (((index(x)[None] >= 0) & index(x).new_ones((), dtype=torch.bool)) & (index(x)[None] < n[:, None]))[
            :, None
        ]
    ),
    "repeated over channels": lambda x, n: (
        x * (index(x)[None] < n[:, None])[:, None].repeat(1, x.shape[1], 1)
    ),
    "le minus one": lambda x, n: x * (index(x)[None] <= (n - 1)[:, None])[:, None],
    "gt of a smaller length": lambda x, n: x.masked_fill((index(x)[None] > (n - 1)[:, None])[:, None], 0.0),
    "indexed by None": lambda x, n: x * (index(x)[None, None, :] < n[:, None, None]),
    "unsqueeze": lambda x, n: x * (index(x).unsqueeze(0) < n.unsqueeze(1)).unsqueeze(1),
    "view": lambda x, n: x * (index(x).view(1, -1) < n.view(-1, 1)).view(x.shape[0], 1, -1),
    "expand": lambda x, n: (
        x * (index(x).expand(x.shape[0], x.shape[2]) < n[:, None]).unsqueeze(1).expand_as(x)
    ),
    "float index": lambda x, n: (
        x * (torch.arange(x.shape[2], dtype=torch.float32)[None] < n[:, None])[:, None]
    ),
    "arange from zero": lambda x, n: x * (torch.arange(0, x.shape[2])[None] < n[:, None])[:, None],
    "arange with a step of one": lambda x, n: (
        x * (torch.arange(0, x.shape[2], 1)[None] < n[:, None])[:, None]
    ),
    "size instead of shape": lambda x, n: x * (torch.arange(x.size(-1))[None] < n[:, None])[:, None],
    "twice": lambda x, n: (
        x.masked_fill((index(x)[None] >= n[:, None])[:, None], 0.0) * (index(x)[None] < n[:, None])[:, None]
    ),
    "frames first": lambda x, n: (x.transpose(1, 2) * (index(x)[None] < n[:, None])[..., None]).transpose(
        1, 2
    ),
    "reached by permute": lambda x, n: (
        x.permute(0, 2, 1).masked_fill((index(x)[None] >= n[:, None])[:, :, None], 0.0).permute(0, 2, 1)
    ),
}


def zeroed(x: Tensor, n: Tensor) -> Tensor:
    x = x.clone()
    x[~(index(x)[None] < n[:, None])[:, None].repeat(1, x.shape[1], 1)] = 0
    return x


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_read_by_meaning(name: str) -> None:
    mask = MASKS[name]
    graph = captured(Small(lambda self, x, n: (mask(x, n), n)))
    assert ops(graph) == ["conv1d", "mask_time", "conv1d", "transpose"]


def mask_in_place(x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    x.masked_fill_((index(x)[None] >= n[:, None])[:, None], 0.0)
    return x, n


def mask_a_view_in_place(x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    x.transpose(1, 2).masked_fill_((index(x)[None] >= n[:, None])[..., None], 0.0)
    return x, n


@pytest.mark.parametrize("lengths", [example, full_length])
@pytest.mark.parametrize("body", [mask_in_place, mask_a_view_in_place])
def test_masks_written_in_place_are_seen(body: Any, lengths: Any) -> None:
    graph = capture(prepare(Small(lambda self, x, n: body(x, n))), lengths())
    assert ops(graph) == ["conv1d", "mask_time", "conv1d", "transpose"]


def graph_or_refusal(network: nn.Module) -> None:
    """Either the capture is right on inputs it never saw, or it says that it cannot."""
    network = prepare(network)
    try:
        graph = capture(network, full_length(), "small")
    except ZeroqError:
        return
    x, n = torch.randn(3, MELS, 33), torch.tensor([33, 7, 16])
    wanted, wanted_lengths = network(x, n)
    found, found_lengths = graph.run(x, n)
    assert torch.equal(found_lengths, wanted_lengths.to(torch.int64))
    for i, valid in enumerate(found_lengths.tolist()):
        torch.testing.assert_close(found[i, :valid], wanted[i, :valid], atol=1e-4, rtol=1e-4)


def halve_float(x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    # an odd length halves to k + 1/2, and frame k is below it
    return x * (index(x)[None] < (n / 2)[:, None])[:, None], n


def every_second(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    y = self.down(x)
    return y * (torch.arange(0, x.shape[2], 2)[None] < n[:, None])[:, None], (n - 1) // 2 + 1


def total_of_the_batch(x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    mask = (index(x)[None] < n[:, None])[:, None].float()
    return x * ((x * mask).sum(2, keepdim=True) / mask.sum()), n


def mask_over_channels(x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    return x * (torch.arange(x.shape[1])[None] < n[:, None])[:, :, None], n


def in_place_alias(x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    y = F.relu(x, inplace=True)
    return x + y, n


MISREADABLE: dict[str, nn.Module] = {
    "float half of a length": Small(lambda self, x, n: halve_float(x, n)),
    "index with a step": Small(every_second, down=nn.Conv1d(HIDDEN, HIDDEN, 3, stride=2, padding=1)),
    "mean over the whole batch": Small(lambda self, x, n: total_of_the_batch(x, n)),
    "mask over channels": Small(lambda self, x, n: mask_over_channels(x, n)),
    "in place under another name": Small(lambda self, x, n: in_place_alias(x, n)),
    "softmax over time": Whole(
        lambda self, x, n: (self.c(x).transpose(1, 2).log_softmax(1), n), c=nn.Conv1d(MELS, TOKENS, 1)
    ),
    "arithmetic behind log-softmax": Whole(
        lambda self, x, n: (self.c(x).transpose(1, 2).log_softmax(2).tanh(), n), c=nn.Conv1d(MELS, TOKENS, 1)
    ),
    "index from one": Small(
        lambda self, x, n: (x * (torch.arange(1, x.shape[2] + 1)[None] < n[:, None])[:, None], n)
    ),
    "shifted index": Small(lambda self, x, n: (x * (index(x)[None] + 2 < n[:, None])[:, None], n)),
    "lengths of the padded batch": Small(lambda self, x, n: (x * (index(x)[None] < n.max())[:, None], n)),
    "mask repeated over frames": Small(
        lambda self, x, n: (
            x * (torch.arange(x.shape[2] // 2)[None] < n[:, None] // 2)[:, None].repeat(1, 1, 2),
            n,
        )
    ),
    "utterance below its length": Small(
        lambda self, x, n: (x * (torch.arange(x.shape[0]) < n)[:, None, None], n)
    ),
    "whether all of a batch is padding": Small(
        lambda self, x, n: (x.masked_fill((index(x)[None] >= n[:, None]).all(1)[:, None, None], 0.0), n)
    ),
    "valid frames zeroed": Small(
        lambda self, x, n: (
            x.index_put(((index(x)[None] < n[:, None])[:, None].repeat(1, HIDDEN, 1),), torch.tensor(0.0)),
            n,
        )
    ),
    "rows swapped": Small(
        lambda self, x, n: (x * (index(x)[None] < n[:, None])[index(x)[None] * 0, index(x)[None]][:, None], n)
    ),
    "frames from one on": Small(lambda self, x, n: (x * (index(x) >= 1), n)),
    "cut from a strided convolution": Small(
        lambda self, x, n: (self.down(x)[:, :, :-1], (n - 1) // 2),
        down=nn.Conv1d(HIDDEN, HIDDEN, 3, stride=2, padding=1),
    ),
    "cut more than the padding": Small(
        lambda self, x, n: (self.c(x)[:, :, :-2], n - 1), c=nn.Conv1d(HIDDEN, HIDDEN, 2, padding=1)
    ),
    "cast to integers": Small(lambda self, x, n: (x.long().float(), n)),
    "rounded activations": Small(lambda self, x, n: (x.round(), n)),
    "negated": Small(lambda self, x, n: (-x, n)),
    "subtracted": Small(lambda self, x, n: (x - self.other(x), n), other=nn.Conv1d(HIDDEN, HIDDEN, 1)),
    "scaled by a length": Small(lambda self, x, n: (x / n[:, None, None], n)),
    "cropped": Small(lambda self, x, n: (x[:, :, 2:], n - 2)),
    "sliced channels": Small(lambda self, x, n: (self.up(x[:, :4]), n), up=nn.Conv1d(4, HIDDEN, 1)),
    "ceil of a length": Small(
        lambda self, x, n: (self.down(x), torch.ceil(n / 2).long()),
        down=nn.Conv1d(HIDDEN, HIDDEN, 3, stride=2, padding=1),
    ),
    "masked by a constant index": Small(lambda self, x, n: (x * (torch.arange(FRAMES) < 20), n)),
    "reflected padding": Small(
        lambda self, x, n: (self.c(F.pad(x, (1, 1), mode="reflect")), n), c=nn.Conv1d(HIDDEN, HIDDEN, 3)
    ),
    "padding with ones": Small(
        lambda self, x, n: (self.c(F.pad(x, (1, 1), value=1.0)), n), c=nn.Conv1d(HIDDEN, HIDDEN, 3)
    ),
    "padding before an activation": Small(
        lambda self, x, n: (self.c(F.relu(F.pad(x, (1, 1)))), n), c=nn.Conv1d(HIDDEN, HIDDEN, 3)
    ),
    "negative padding": Small(
        lambda self, x, n: (self.c(F.pad(x, (3, -1))), n), c=nn.Conv1d(HIDDEN, HIDDEN, 3)
    ),
    "boolean channel index": Small(
        lambda self, x, n: (self.up(x[:, self.keep]), n), up=nn.Conv1d(4, HIDDEN, 1)
    ),
    "reversed channels": Small(lambda self, x, n: (x.flip(1), n)),
    "gelu with tanh": Small(lambda self, x, n: (F.gelu(x, approximate="tanh"), n)),
    "elu with alpha": Small(lambda self, x, n: (F.elu(x, 2.0), n)),
    "weighted sum": Small(lambda self, x, n: (torch.add(x, x.relu(), alpha=2.0), n)),
}
MISREADABLE["boolean channel index"].register_buffer("keep", torch.arange(HIDDEN) % 2 == 0)


@pytest.mark.parametrize("name", MISREADABLE)
def test_what_could_be_misread_never_passes_silently(name: str) -> None:
    # on full lengths the capture's own check sees no mask: the tracer itself must know
    graph_or_refusal(MISREADABLE[name])


# -- convolutions and norms ----------------------------------------------------------------------


def conv_network(length: Callable[[Tensor], Tensor] | None, *args: Any, **kwargs: Any) -> nn.Module:
    layer = nn.Conv1d(HIDDEN, kwargs.pop("out", HIDDEN), *args, **kwargs)
    back = nn.Conv1d(layer.out_channels, HIDDEN, 1)
    return Small(lambda self, x, n: (self.back(self.c(x)), length(n) if length else n), c=layer, back=back)


CONVOLUTIONS: dict[str, nn.Module] = {
    "stride": conv_network(lambda n: (n + 2 * 2 - 4 - 1) // 2 + 1, 5, stride=2, padding=2),
    "stride by torch.div": conv_network(
        lambda n: torch.div(n + 2 * 2 - 4 - 1, 2, rounding_mode="floor") + 1, 5, stride=2, padding=2
    ),
    "stride short form": conv_network(lambda n: (n - 1) // 2 + 1, 3, stride=2, padding=1),
    "stride plus one": conv_network(lambda n: (n + 1) // 2, 3, stride=2, padding=1),
    "stride in real numbers": conv_network(
        lambda n: torch.floor((n.float() - 1) / 2 + 1.0).to(torch.int64), 3, stride=2, padding=1
    ),
    "stride in real numbers, from above": conv_network(
        lambda n: ((n.float() + 3) / 2 - 1.0).floor().long(), 3, stride=2, padding=1
    ),
    "dilation": conv_network(None, 5, dilation=3, padding=6),
    "groups": conv_network(None, 3, padding=1, groups=4),
    "depthwise": conv_network(None, 7, padding=3, groups=HIDDEN),
    "depthwise multiplier": conv_network(None, 3, padding=1, groups=HIDDEN, out=2 * HIDDEN),
    "same": conv_network(None, 5, padding="same"),
    "same even": conv_network(None, 4, padding="same"),
    "same dilated even": conv_network(None, 4, padding="same", dilation=3),
    "valid": conv_network(lambda n: n - 2, 3, padding="valid"),
    "no bias": conv_network(None, 3, padding=1, bias=False),
    "length kept at zero": conv_network(lambda n: (n + 2 - 5).clamp(min=0) + 1, 5, padding=1),
    "length kept at one": conv_network(lambda n: ((n - 1) // 2 + 1).clamp(min=1), 3, stride=2, padding=1),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    graph = captured(CONVOLUTIONS[name])
    assert ops(graph).count("conv1d") == 4


def test_two_strides_in_a_row() -> None:
    def body(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        for layer in (self.a, self.b):
            x = x * (index(x)[None] < n[:, None])[:, None]
            x, n = layer(x).relu(), (n - 1) // 2 + 1
        return x * (index(x)[None] < n[:, None])[:, None], n

    def layer() -> nn.Module:
        return nn.Conv1d(HIDDEN, HIDDEN, 3, stride=2, padding=1)

    graph = captured(Small(body, a=layer(), b=layer()))
    assert ops(graph).count("mask_time") == 3


@pytest.mark.parametrize("pad", [(4, 0), (0, 4), (3, 1)])
def test_padding_before_a_convolution_is_absorbed(pad: tuple[int, int]) -> None:
    network = Small(lambda self, x, n: (self.c(F.pad(x, pad)), n), c=nn.Conv1d(HIDDEN, HIDDEN, 5))
    graph = captured(network)
    assert ops(graph) == ["conv1d", "conv1d", "conv1d", "transpose"]
    assert graph.nodes[1].attrs["padding"] == pad


def test_padding_layer_and_padding_of_the_convolution_add_up() -> None:
    pad, conv = nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(HIDDEN, HIDDEN, 5, padding=1)
    graph = captured(Small(lambda self, x, n: (self.c(self.p(x)), n), p=pad, c=conv))
    assert graph.nodes[1].attrs["padding"] == (3, 1)


@pytest.mark.parametrize("cut", [1, 2])
def test_what_is_cut_off_a_padded_convolution_is_less_padding(cut: int) -> None:
    convs = {"c": nn.Conv1d(HIDDEN, HIDDEN, 1 + cut, padding=cut, groups=2)}
    graph = captured(Small(lambda self, x, n: (self.c(x)[:, :, :-cut], n), **convs))
    assert ops(graph) == ["conv1d", "conv1d", "conv1d", "transpose"]
    assert graph.nodes[1].attrs["padding"] == (cut, 0)


def test_one_padding_shared_by_two_convolutions() -> None:
    def body(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        x = F.pad(x, (2, 2))
        return self.a(x) + self.b(x), n

    layers = {k: nn.Conv1d(HIDDEN, HIDDEN, 5) for k in "ab"}
    assert "pad" not in ops(captured(Small(body, **layers)))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.5])
def test_batch_norm_folds_into_the_convolution(affine: bool, eps: float) -> None:
    norm = nn.BatchNorm1d(HIDDEN, eps=eps, affine=affine)
    graph = captured(Small(lambda self, x, n: (self.norm(x).relu(), n), norm=norm))
    assert ops(graph) == ["conv1d", "conv1d", "transpose"]
    assert graph.nodes[0].attrs["clamp"] == (0.0, None)


def test_two_batch_norms_fold_into_one_convolution() -> None:
    layers = {k: nn.BatchNorm1d(HIDDEN) for k in "ab"}
    graph = captured(Small(lambda self, x, n: (self.b(self.a(x)), n), **layers))
    assert ops(graph) == ["conv1d", "conv1d", "transpose"]


def test_batch_norm_with_zero_gamma() -> None:
    norm = nn.BatchNorm1d(HIDDEN)
    network = prepare(Small(lambda self, x, n: (self.norm(x), n), norm=norm))
    norm.weight.zero_()
    graph = capture(network, example())
    assert not graph.nodes[0].attrs["weight"].any()


def test_batch_norm_without_a_convolution_before_it() -> None:
    network = Small(lambda self, x, n: (self.norm(x.relu()), n), norm=nn.BatchNorm1d(HIDDEN))
    graph = captured(network)
    assert ops(graph) == ["conv1d", "conv1d", "conv1d", "transpose"]
    assert graph.nodes[1].attrs["groups"] == HIDDEN


def test_batch_norm_of_the_features() -> None:
    def forward(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        return self.c(self.norm(x)).transpose(1, 2), n

    graph = captured(Whole(forward, norm=nn.BatchNorm1d(MELS), c=nn.Conv1d(MELS, TOKENS, 3, padding=1)))
    assert ops(graph) == ["conv1d", "conv1d", "transpose"]


def test_batch_norm_of_a_convolution_that_others_read() -> None:
    network = Small(lambda self, x, n: (self.norm(x) + x, n), norm=nn.BatchNorm1d(HIDDEN))
    assert ops(captured(network)).count("conv1d") == 3


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor] | nn.Module, tuple[float | None, float | None]]] = {
    "relu": (F.relu, (0.0, None)),
    "nn.ReLU in place": (nn.ReLU(inplace=True), (0.0, None)),
    "relu6": (F.relu6, (0.0, 6.0)),
    "nn.ReLU6": (nn.ReLU6(), (0.0, 6.0)),
    "hardtanh": (nn.Hardtanh(0.0, 0.4), (0.0, 0.4)),
    "hardtanh in place": (nn.Hardtanh(-0.2, 0.4, inplace=True), (-0.2, 0.4)),
    "clamp": (lambda x: x.clamp(-0.3, 0.5), (-0.3, 0.5)),
    "clamp min": (lambda x: x.clamp(min=-0.3), (-0.3, None)),
    "clamp max": (lambda x: x.clamp(max=0.3), (None, 0.3)),
    "torch.clamp keyword": (lambda x: torch.clamp(x, max=0.3, min=0.1), (0.1, 0.3)),
    "clip": (lambda x: torch.clip(x, -0.1, 0.3), (-0.1, 0.3)),
    "clamp_min": (lambda x: torch.clamp_min(x, 0.0), (0.0, None)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_clamps_join_the_convolution(name: str) -> None:
    function, clamp = ACTIVATIONS[name]
    graph = captured(Small(lambda self, x, n: (function(x), n)))
    assert ops(graph) == ["conv1d", "conv1d", "transpose"]
    assert graph.nodes[0].attrs["clamp"] == clamp


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "silu", "gelu", "selu", "elu"])
def test_elementwise_functions(name: str) -> None:
    function = {**vars(torch), **vars(F)}[name]
    assert ops(captured(Small(lambda self, x, n: (function(x), n)))) == [
        "conv1d",
        name,
        "conv1d",
        "transpose",
    ]


def test_swish_by_hand() -> None:
    graph = captured(Small(lambda self, x, n: (x * torch.sigmoid(x), n)))
    assert ops(graph) == ["conv1d", "sigmoid", "mul", "conv1d", "transpose"]


def test_dropout_vanishes() -> None:
    layers = {"a": nn.Dropout(0.5), "b": nn.Dropout1d(0.5)}
    graph = captured(
        Small(lambda self, x, n: (F.dropout(self.b(self.a(x)), 0.3, self.training), n), **layers)
    )
    assert ops(graph) == ["conv1d", "conv1d", "transpose"]


def test_dropout_in_training_mode_is_refused() -> None:
    network = prepare(Small(lambda self, x, n: (self.d(x), n), d=nn.Dropout(0.5))).train()
    with pytest.raises(ZeroqError):
        capture(network, example())


def test_batch_norm_in_training_mode_is_refused() -> None:
    network = prepare(Small(lambda self, x, n: (self.norm(x), n), norm=nn.BatchNorm1d(HIDDEN))).train()
    with pytest.raises(ZeroqError):
        capture(network, example())


# -- sums, gates, moves --------------------------------------------------------------------------


def test_residual_chain_is_one_sum() -> None:
    layers = {k: nn.Conv1d(HIDDEN, HIDDEN, 1) for k in "abc"}
    graph = captured(Small(lambda self, x, n: ((self.a(x) + self.b(x) + self.c(x) + x).relu(), n), **layers))
    sums = [node for node in graph.nodes if node.op == "add"]
    assert [len(node.ins) for node in sums] == [4]
    assert sums[0].attrs["clamp"] == (0.0, None)


def test_in_place_residual() -> None:
    def body(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        y += x
        return y, n

    assert ops(captured(Small(body, a=nn.Conv1d(HIDDEN, HIDDEN, 1)))).count("add") == 1


class SqueezeExcite(nn.Module):
    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        kinds = (nn.Linear(HIDDEN, 4), nn.Linear(4, HIDDEN))
        convs = (nn.Conv1d(HIDDEN, 4, 1), nn.Conv1d(4, HIDDEN, 1))
        self.a, self.b = kinds if linear else convs

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        mask = (index(x)[None] < n[:, None])[:, None].float()
        mean = (x * mask).sum(dim=2, keepdim=True) / n[:, None, None]
        if self.linear:
            gate = self.b(self.a(mean.transpose(1, 2)).relu()).transpose(1, 2)
        else:
            gate = self.b(self.a(mean).relu())
        return x * torch.sigmoid(gate)


def moments(x: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mask [B, 1, T], the length [B, 1, 1] and ``x`` less its mean over the valid frames."""
    mask = (index(x)[None] < n[:, None])[:, None]
    count = n[:, None, None]
    return mask, count, x - (x * mask).sum(2, keepdim=True) / count


def normalized(x: Tensor, n: Tensor) -> Tensor:
    mask, count, centred = moments(x, n)
    return centred * torch.rsqrt((centred * centred * mask).sum(2, keepdim=True) / count + 1e-3)


def normalized_by_a_root(x: Tensor, n: Tensor) -> Tensor:
    mask, count, centred = moments(x, n)
    return centred / ((centred.pow(2) * mask).sum(2, keepdim=True) / count + 1e-3).sqrt()


def normalized_and_masked(x: Tensor, n: Tensor) -> Tensor:
    mask, count, centred = moments(x, n)
    centred = centred * mask
    return centred * (centred.square().sum(2, keepdim=True) / count + 1e-3).rsqrt()


def normalized_by_filling(x: Tensor, n: Tensor) -> Tensor:
    mask, count, centred = moments(x, n)
    variance = (centred**2).masked_fill(~mask, 0.0).sum(-1, keepdim=True) / count
    return torch.rsqrt(variance + 1e-3) * centred


def normalized_after_a_mask(x: Tensor, n: Tensor) -> Tensor:
    x = x * (index(x)[None] < n[:, None])[:, None]
    return normalized_and_masked(x, n)


INSTANCE_NORMS = {
    f.__name__: f
    for f in (
        normalized,
        normalized_by_a_root,
        normalized_and_masked,
        normalized_by_filling,
        normalized_after_a_mask,
    )
}


@pytest.mark.parametrize("name", INSTANCE_NORMS)
def test_normalization_over_valid_frames(name: str) -> None:
    def body(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        x = INSTANCE_NORMS[name](x, n) * self.scale[:, None] + self.shift[:, None]
        return x * (index(x)[None] < n[:, None])[:, None], n

    network = Small(body)
    network.register_buffer("scale", torch.linspace(0.5, 2, HIDDEN))
    network.register_buffer("shift", torch.linspace(-1, 1, HIDDEN))
    graph = captured(network)
    node = next(node for node in graph.nodes if node.op == "instance_norm")
    assert node.attrs["epsilon"] == 1e-3
    if name == "normalized":
        assert ops(graph) == ["conv1d", "instance_norm", "mask_time", "conv1d", "transpose"]
        assert torch.equal(node.attrs["weight"], network.scale)
        assert torch.equal(node.attrs["bias"], network.shift)


def test_normalization_frames_first() -> None:
    def body(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        x, valid = x.transpose(1, 2), (index(x)[None] < n[:, None])[:, :, None]
        centred = x - (x * valid).sum(1, keepdim=True) / n[:, None, None]
        variance = (centred * centred * valid).sum(-2, keepdim=True) / n[:, None, None]
        x = centred * torch.rsqrt(variance + 1e-5) * self.scale
        return (x * valid).transpose(1, 2), n

    network = Small(body)
    network.register_buffer("scale", torch.linspace(0.5, 2, HIDDEN))
    assert "instance_norm" in ops(captured(network))


def variance_of_padding_too(x: Tensor, n: Tensor) -> Tensor:
    _, count, centred = moments(x, n)
    return centred * torch.rsqrt((centred * centred).sum(2, keepdim=True) / count + 1e-3)


def variance_over_another_length(x: Tensor, n: Tensor) -> Tensor:
    mask, count, centred = moments(x, n)
    return centred * torch.rsqrt((centred * centred * mask).sum(2, keepdim=True) / (count + 1) + 1e-3)


def variance_without_a_root(x: Tensor, n: Tensor) -> Tensor:
    mask, count, centred = moments(x, n)
    return centred / ((centred * centred * mask).sum(2, keepdim=True) / count + 1e-3)


def spread_of_another(x: Tensor, n: Tensor) -> Tensor:
    mask, count, centred = moments(x.sigmoid(), n)
    spread = torch.rsqrt((centred * centred * mask).sum(2, keepdim=True) / count + 1e-3)
    return moments(x, n)[2] * spread


def merely_centred(x: Tensor, n: Tensor) -> Tensor:
    return moments(x, n)[2]


def variance_over_channels(x: Tensor, n: Tensor) -> Tensor:
    mask, count, centred = moments(x, n)
    return centred * torch.rsqrt((centred * centred * mask).sum(1, keepdim=True) / count + 1e-3)


@pytest.mark.parametrize(
    "function",
    [
        variance_of_padding_too,
        variance_over_another_length,
        variance_without_a_root,
        spread_of_another,
        merely_centred,
        variance_over_channels,
    ],
)
def test_other_normalizations_are_refused(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedOperatorError):
        capture(prepare(Small(lambda self, x, n: (function(x, n), n))), full_length())


def test_group_norm_over_padding_is_refused() -> None:
    network = Small(lambda self, x, n: (self.norm(x), n), norm=nn.GroupNorm(HIDDEN, HIDDEN))
    with pytest.raises(UnsupportedOperatorError, match="group_norm"):
        capture(prepare(network), full_length())


@pytest.mark.parametrize("linear", [True, False])
def test_squeeze_and_excitation_with_a_masked_mean(linear: bool) -> None:
    graph = captured(Small(lambda self, x, n: (self.se(x, n), n), se=SqueezeExcite(linear)))
    expected = ["conv1d", "mean_time", "conv1d", "conv1d", "sigmoid", "mul", "conv1d", "transpose"]
    assert ops(graph) == expected


def test_mean_divided_by_the_sum_of_the_mask() -> None:
    def body(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        mask = (index(x)[None] < n[:, None])[:, None].float()
        return x * ((x * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)).sigmoid(), n

    assert "mean_time" in ops(captured(Small(body)))


def test_linear_layers_on_frames() -> None:
    def forward(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        return self.b(self.a(x.transpose(1, 2)).relu()), n

    graph = captured(Whole(forward, a=nn.Linear(MELS, HIDDEN), b=nn.Linear(HIDDEN, TOKENS, bias=False)))
    assert ops(graph) == ["conv1d", "conv1d", "transpose"]
    assert graph.nodes[0].attrs["clamp"] == (0.0, None)


def test_back_and_forth_between_layouts() -> None:
    def body(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x.transpose(-1, -2)).mT
        return x + y, n

    def permuted(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        return x + self.a(x.permute(0, 2, 1)).permute(0, 2, 1), n

    captured(Small(permuted, a=nn.Linear(HIDDEN, HIDDEN)))
    graph_or_refusal(Small(body, a=nn.Linear(HIDDEN, HIDDEN)))


def shuffle_index() -> Tensor:
    return torch.arange(HIDDEN).view(2, HIDDEN // 2).t().flatten()


def test_channel_shuffle_by_index_select() -> None:
    network = Small(lambda self, x, n: (x.index_select(1, self.order), n))
    network.register_buffer("order", shuffle_index())
    graph = captured(network)
    assert ops(graph) == ["conv1d", "take_channels", "conv1d", "transpose"]
    assert graph.nodes[1].attrs["index"] == tuple(shuffle_index().tolist())


def test_channel_shuffle_by_indexing() -> None:
    network = Small(lambda self, x, n: (x[:, self.order], n))
    network.register_buffer("order", shuffle_index())
    assert "take_channels" in ops(captured(network))


@pytest.mark.parametrize("dim", [2, -1])
def test_log_softmax_at_the_end_is_left_out(dim: int) -> None:
    def forward(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        return self.c(x).transpose(1, 2).log_softmax(dim), n

    graph = captured(Whole(forward, c=nn.Conv1d(MELS, TOKENS, 1)))
    assert ops(graph) == ["conv1d", "transpose"]


SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "times": lambda x: x * 0.5,
    "times reversed": lambda x: 0.5 * x,
    "divided": lambda x: x / 3.0,
    "shifted": lambda x: x + 0.25,
    "shifted down": lambda x: x - 0.25,
    "tensor": lambda x: x * torch.tensor(0.5),
}


@pytest.mark.parametrize("name", SCALES)
def test_scales_fold_into_the_convolution(name: str) -> None:
    graph = captured(Small(lambda self, x, n: (SCALES[name](x), n)))
    assert ops(graph) == ["conv1d", "conv1d", "transpose"]


VECTORS: dict[str, Forward] = {
    "scale": lambda self, x, n: (x * self.v[None, :, None], n),
    "scale of a column": lambda self, x, n: (x * self.v[:, None], n),
    "shift": lambda self, x, n: (x + self.v[:, None], n),
    "divisor": lambda self, x, n: (x / self.v[:, None], n),
    "frames first": lambda self, x, n: ((x.transpose(1, 2) * self.v).transpose(1, 2), n),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_over_channels_fold_into_the_convolution(name: str) -> None:
    network = Small(VECTORS[name])
    network.register_buffer("v", torch.linspace(0.1, 2, HIDDEN))
    assert ops(captured(network)) == ["conv1d", "conv1d", "transpose"]


def test_vectors_over_frames_are_refused() -> None:
    network = Small(VECTORS["frames first"])
    network.body = lambda self, x, n: (x * self.v, n)
    network.register_buffer("v", torch.linspace(0.1, 2, FRAMES))
    with pytest.raises(ZeroqError):
        capture(prepare(network), example())


def test_scale_of_a_sum() -> None:
    graph = captured(Small(lambda self, x, n: (x + 0.5 * (x + x.relu()), n)))
    assert ops(graph).count("conv1d") == 3


def test_scale_behind_a_choice_of_channels() -> None:
    network = Small(lambda self, x, n: (self.up(x[:, self.some].relu() * 0.5), n), up=nn.Conv1d(3, HIDDEN, 1))
    network.register_buffer("some", torch.tensor([5, 0, 2]))
    captured(network)


# -- refusals ------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(HIDDEN, HIDDEN, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x.transpose(1, 2))[0].transpose(1, 2)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(HIDDEN, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        return self.attention(y, y, y, need_weights=False)[0].transpose(1, 2)


def through(layer: nn.Module) -> nn.Module:
    return Small(lambda self, x, n: (self.block(x), n), block=nn.Sequential(nn.ReLU(), layer))


UNSUPPORTED: dict[str, tuple[nn.Module, str]] = {
    "GRU": (through(Recurrent()), "block.1.gru"),
    "MultiheadAttention": (through(Attention()), "block.1.attention"),
    "GroupNorm": (through(nn.GroupNorm(2, HIDDEN)), "block.1"),
    "InstanceNorm": (through(nn.InstanceNorm1d(HIDDEN)), "block.1"),
    "softmax": (through(nn.Softmax(dim=1)), "block.1"),
    "mean over time": (through(nn.AdaptiveAvgPool1d(1)), "block.1"),
    "max pooling": (through(nn.MaxPool1d(3, 1, 1)), "block.1"),
    "transposed convolution": (through(nn.ConvTranspose1d(HIDDEN, HIDDEN, 3, padding=1)), "block.1"),
    "softplus": (through(nn.Softplus()), "block.1"),
    "leaky relu": (through(nn.LeakyReLU(0.1)), "block.1"),
    "prelu": (through(nn.PReLU()), "block.1"),
    "gelu with tanh": (through(nn.GELU(approximate="tanh")), "block.1"),
    "circular padding": (
        through(nn.Conv1d(HIDDEN, HIDDEN, 3, padding=1, padding_mode="circular")),
        "block.1",
    ),
    "layer norm over time": (through(nn.LayerNorm(FRAMES)), "block.1"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_operators_name_the_layer_and_what_is_supported(name: str) -> None:
    network, where = UNSUPPORTED[name]
    with pytest.raises(UnsupportedOperatorError) as caught:
        capture(prepare(network), example())
    assert caught.value.where == where
    text = str(caught.value)
    assert "\n" not in text
    assert "conv1d" in caught.value.remedy
    assert "masked_fill" in caught.value.remedy
    listed, _, other = caught.value.remedy.removeprefix("supported: ").partition("; ")
    # what has time in front of the batch is not to be kept in float either
    if name == "MultiheadAttention":
        assert other == "write it over [B, T, C] or [B, C, T]"
    else:
        assert other == "--allow-float keeps others in float"
    # the names a user knows: neither torch's inner ones nor the forms that write in place
    assert f"supported: {listed}" == supported()
    assert not any(name.startswith("_") or name.endswith("_") for name in listed.split(", "))
    assert {"conv1d", "batch_norm", "relu", "add", "mul", "clamp", "sigmoid"} <= {*listed.split(", ")}


@pytest.mark.parametrize(
    "body",
    [
        lambda self, x, n: (x * x.mean(2, keepdim=True), n),
        lambda self, x, n: (x * (x.sum(2, keepdim=True) / n[:, None, None]), n),
    ],
)
def test_unmasked_means_over_time_are_refused(body: Forward) -> None:
    with pytest.raises(UnsupportedOperatorError):
        capture(prepare(Small(body)), example())


def test_operators_outside_of_any_layer_still_have_a_name() -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        capture(prepare(Small(lambda self, x, n: (x.exp(), n))), example())
    assert caught.value.where
    assert "exp" in caught.value.problem


CONV = {"c": nn.Conv1d(MELS, TOKENS, 1)}

SIGNATURES: dict[str, Forward] = {
    "one output": lambda self, x, n: self.c(x).transpose(1, 2),
    "one output in a tuple": lambda self, x, n: (self.c(x).transpose(1, 2),),
    "three outputs": lambda self, x, n: (self.c(x).transpose(1, 2), n, n),
    "tokens before frames": lambda self, x, n: (self.c(x), n),
    "lengths first": lambda self, x, n: (n, self.c(x).transpose(1, 2)),
    "logits twice": lambda self, x, n: (self.c(x).transpose(1, 2), self.c(x).transpose(1, 2)),
    "no lengths": lambda self, x, n: (self.c(x).transpose(1, 2), None),
    "constant lengths": lambda self, x, n: (self.c(x).transpose(1, 2), torch.tensor([24, 24, 24])),
    "lengths as a ratio": lambda self, x, n: (self.c(x).transpose(1, 2), n / n.max()),
    "lengths from the shape": lambda self, x, n: (
        self.c(x).transpose(1, 2),
        torch.full((x.shape[0],), x.shape[2]),
    ),
    "wrong lengths": lambda self, x, n: (self.c(x).transpose(1, 2), x.shape[2]),
    "frames summed away": lambda self, x, n: (self.c(x).sum(2), n),
    "constant logits": lambda self, x, n: (torch.zeros(3, FRAMES, TOKENS), n),
    "a mask as logits": lambda self, x, n: ((index(x)[None] < n[:, None])[..., None], n),
    "a dictionary": lambda self, x, n: {"logits": self.c(x).transpose(1, 2), "lengths": n},
    "logits in a list": lambda self, x, n: ([self.c(x).transpose(1, 2)], n),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_wrong_signatures_are_refused(name: str) -> None:
    with pytest.raises((CaptureError, UnsupportedOperatorError)) as caught:
        capture(prepare(Whole(SIGNATURES[name], **CONV)), example())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["one output", "three outputs", "tokens before frames"])
def test_wrong_signatures_say_what_is_expected(name: str) -> None:
    with pytest.raises(CaptureError, match=r"logits \[B, S, V\]"):
        capture(prepare(Whole(SIGNATURES[name], **CONV)), example())


CONTROL_FLOW: dict[str, Forward] = {
    "branch on a value": lambda self, x, n: (x if x.max() > 0 else -x, n),
    "branch on a length": lambda self, x, n: (x if int(n[0]) > 3 else x.relu(), n),
    "loop over lengths": lambda self, x, n: (torch.stack([row[:, :k] for row, k in zip(x, n)]), n),  # noqa: B905
    "item": lambda self, x, n: (x * x.max().item(), n),
    "numpy": lambda self, x, n: (x * float(x.numpy().max()), n),
    "raises": lambda self, x, n: (_ for _ in ()).throw(ValueError("first line\nsecond line")),
    "raises nothing to say": lambda self, x, n: (_ for _ in ()).throw(KeyError()),
    "wrong shape inside": lambda self, x, n: (x @ x, n),
}


@pytest.mark.parametrize("name", CONTROL_FLOW)
def test_data_dependent_control_flow_is_one_line(name: str) -> None:
    with pytest.raises((CaptureError, UnsupportedOperatorError)) as caught:
        capture(prepare(Small(CONTROL_FLOW[name])), example(), "mine")
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1500


def test_control_flow_error_explains_itself() -> None:
    with pytest.raises(CaptureError, match=r"mine: torch.export cannot trace the network \(.+\); forward"):
        capture(prepare(Small(CONTROL_FLOW["branch on a value"])), example(), "mine")


def test_a_network_of_other_inputs_is_refused() -> None:
    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(CaptureError):
        capture(One(), example())


def test_capture_leaves_the_network_as_it_was() -> None:
    network = prepare(Small(lambda self, x, n: (self.norm(x).relu(), n), norm=nn.BatchNorm1d(HIDDEN)))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    capture(network, example())
    after = network.state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(before[k], v) for k, v in after.items())


def test_capture_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    captured(Small(lambda self, x, n: (x, n)))
    assert capsys.readouterr() == ("", "")


def test_nodes_are_named_after_their_layers() -> None:
    graph = captured(
        Small(lambda self, x, n: (self.block(x), n), block=nn.Sequential(nn.Conv1d(HIDDEN, HIDDEN, 1)))
    )
    assert [n.where for n in graph.nodes] == ["first", "block.0", "last", "logits"]
    assert len({n.out for n in graph.nodes}) == len(graph.nodes)


def test_a_layer_used_twice_gets_two_names() -> None:
    graph = captured(Small(lambda self, x, n: (self.c(self.c(x)), n), c=nn.Conv1d(HIDDEN, HIDDEN, 1)))
    assert len({n.out for n in graph.nodes}) == len(graph.nodes)


def test_layers_that_nothing_reads_are_dropped() -> None:
    def body(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        self.c(x)
        return x, n

    assert len(captured(Small(body, c=nn.Conv1d(HIDDEN, HIDDEN, 1))).nodes) == 3


def test_half_precision_weights_are_read_as_float32() -> None:
    network = prepare(Small(lambda self, x, n: (x, n))).double()
    x, n = example()
    graph = capture(network, (x.double(), n))
    assert all(
        t.dtype == torch.float32 for node in graph.nodes for t in node.attrs.values() if isinstance(t, Tensor)
    )


def test_constants_made_in_forward_are_evaluated() -> None:
    """A shared depthwise kernel repeated over channels, as NeMo's ``heads`` does, is a constant."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 1, 3))
            self.out = nn.Conv1d(6, 4, 1)

        def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            kernel = self.weight.repeat(3, 1, 1) * torch.linspace(0.5, 1.5, 3)
            mask = torch.arange(x.shape[2])[None] < lengths[:, None]
            y = nn.functional.conv1d(x * mask[:, None], kernel, padding=1, groups=6)
            return self.out(y).transpose(1, 2), lengths

    torch.manual_seed(0)
    network = Shared().eval().requires_grad_(False)
    example = (torch.randn(2, 6, 20), torch.tensor([20, 13]))
    graph = capture(network, example)
    assert [node.op for node in graph.nodes] == ["mask_time", "conv1d", "conv1d", "transpose"]


# -- names and odd shapes ------------------------------------------------------------------------


def lowered(network: nn.Module) -> None:
    """Capture, lower and export: names and shapes must hold to the end."""
    graph = captured(network)
    features = [torch.randn(MELS, 40, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    found = calibrate(graph, features, CalibrationSpec("noise"))
    program = lower(graph, found.ranges, QuantSpec(), channels=MELS, max_frames=500)
    prove(program)
    for backend in (OnnxStrictBackend(), OnnxFusedBackend()):
        build(backend, program)
        names = [name for node in backend.nodes for name in node.output]
        assert len({*names, *backend.initializers}) == len(names) + len(backend.initializers)


class Borrowed(nn.Module):
    """A layer whose child is called as its own constants might be."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.child = name
        self.add_module(name, nn.Conv1d(HIDDEN, HIDDEN, 1))
        self.kernel = nn.Parameter(torch.randn(HIDDEN, HIDDEN, 1) / HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(getattr(self, self.child)(x), self.kernel)


@pytest.mark.parametrize(
    "name", ["bias", "weight", "multiplier", "table", "logits/scale", "const/uint8/128", "a:2"]
)
def test_layers_may_be_called_anything(name: str) -> None:
    lowered(Small(lambda self, x, n: (self.block(x), n), block=Borrowed(name)))


def test_one_channel_broadcasts_into_a_shuffle() -> None:
    network = Small(lambda self, x, n: ((x + self.one(x))[:, self.order], n), one=nn.Conv1d(HIDDEN, 1, 1))
    network.register_buffer("order", torch.arange(HIDDEN).flip(0))
    lowered(network)


def test_a_vector_makes_channels_of_one() -> None:
    network = Small(lambda self, x, n: (self.one(x) * self.v[:, None] + x, n), one=nn.Conv1d(HIDDEN, 1, 1))
    network.register_buffer("v", torch.linspace(0.1, 2, HIDDEN))
    lowered(network)


@pytest.mark.parametrize(
    "clamp",
    [
        lambda x: F.hardtanh(x, 0.0, math.inf),
        lambda x: x.clamp(-math.inf, 0.5),
        lambda x: x.clamp(-math.inf, math.inf),
    ],
)
def test_infinite_bounds_are_no_bounds(clamp: Callable[[Tensor], Tensor]) -> None:
    lowered(Small(lambda self, x, n: (clamp(x), n)))


@pytest.mark.parametrize("bounds", [(math.nan, 1.0), (math.inf, None), (None, -math.inf)])
def test_senseless_bounds_are_refused(bounds: tuple[float | None, float | None]) -> None:
    with pytest.raises(ZeroqError):
        capture(prepare(Small(lambda self, x, n: (x.clamp(*bounds), n))), example())


def test_logits_that_are_the_features_are_refused() -> None:
    network = Whole(lambda self, x, n: (x.transpose(1, 2), n))
    graph = capture(prepare(network), example())
    found = calibrate(graph, [torch.randn(MELS, 40)], CalibrationSpec("noise"))
    with pytest.raises(UnsupportedOperatorError, match="features themselves"):
        lower(graph, found.ranges, QuantSpec(), channels=MELS, max_frames=500)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(HIDDEN), nn.Dropout(0.1)], ids=["statistics", "dropout"])
def test_a_layer_in_training_mode_is_named(layer: nn.Module) -> None:
    network = Small(lambda self, x, lengths: (self.inner(x), lengths), inner=layer)
    example = torch.randn(2, MELS, FRAMES), torch.tensor([FRAMES, FRAMES])
    with pytest.raises(CaptureError, match=r"in training mode \(\w+ inner\); call network\.eval\(\) first"):
        capture(network.train(), example)
    assert layer.training
    capture(network.eval(), example)


def test_a_module_that_asks_for_its_mode_is_told_too() -> None:
    def body(self: Any, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return F.dropout(x, 0.1, training=self.training), lengths

    network = Small(body)
    example = torch.randn(2, MELS, FRAMES), torch.tensor([FRAMES, FRAMES])
    with pytest.raises(CaptureError, match=r"in training mode \(aten\.dropout.*call network\.eval\(\) first"):
        capture(network.train(), example)
    capture(network.eval(), example)
