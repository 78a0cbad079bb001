"""Convolutional CTC recognisers: Jasper, QuartzNet and Citrinet.

One network class reads the three families, for they are one grammar of blocks::

    x ─► R × [ depthwise ► pointwise | conv ► norm (► shuffle) ] (► squeeze-excite) ─► (+) ─► activation
    └──► 1×1 conv ► norm, one branch for each earlier block input where dense ─────────┘

with an activation between the repeats.  Every convolution first zeroes the frames at or after
the utterance's length, so that a batch never changes a result.

Shapes: B batch, C channels, M mels, T input frames, S encoded frames, V tokens with the blank
last.  Module names are those of NeMo's checkpoints: a state dict fits as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from zeroq_asr.architectures.ctc_head import ConvDecoder, parts, read_module
from zeroq_asr.architectures.options import Options, UnsupportedOptionError
from zeroq_asr.errors import ConfigError

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "hardtanh": nn.Hardtanh,
    "selu": nn.SELU,
    "swish": nn.SiLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}
#: more blocks, repeats or channels than this is a damaged configuration, not a model
_MAX_LAYERS, _MAX_CHANNELS, _MAX_STEP, _MAX_KERNEL = 1000, 65536, 1024, 10_000
_NORMALIZATIONS = ("batch", "group", "instance", "layer")
_RESIDUAL_MODES = ("add", "stride_add", "max")


def mask_frames(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Zero the frames of ``x`` [B, C, T] at or after ``lengths`` [B]."""
    mask = torch.arange(x.shape[-1], device=x.device)[None, :] < lengths[:, None]
    return x * mask[:, None, :]


class TimeConv(nn.Module):
    """A convolution over time that also says how long its output is.

    With ``heads`` the kernels of a depthwise convolution are shared: channel c uses kernel
    c mod heads.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
        heads: int = -1,
    ) -> None:
        super().__init__()
        shared = heads != -1
        if shared and (in_channels % heads or out_channels != in_channels):
            raise ConfigError("encoder.jasper", f"heads: {in_channels} channels do not share {heads} heads")
        self.weight = nn.Parameter(
            torch.empty(heads, 1, kernel_size)
            if shared
            else torch.empty(out_channels, _exact_quotient(in_channels, groups), kernel_size)
        )
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.copies = out_channels // heads if shared else 1
        self.groups = in_channels if shared else groups
        self.stride, self.dilation, self.padding = stride, dilation, padding
        #: how many frames fewer come out than go in, before the stride
        self.shrink = dilation * (kernel_size - 1) - sum(padding)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the convolution [B, C, S] of ``x`` [B, C, T], and lengths [B] in frames of it."""
        weight = self.weight if self.copies == 1 else self.weight.repeat(self.copies, 1, 1)
        left, right = self.padding
        if left != right:
            x = F.pad(x, (left, right))
        out = F.conv1d(
            x,
            weight,
            stride=self.stride,
            padding=left if left == right else 0,
            dilation=self.dilation,
            groups=self.groups,
        )
        if self.shrink == 0 and self.stride == 1:
            return out, lengths
        return out, torch.div(lengths - self.shrink - 1, self.stride, rounding_mode="floor") + 1


class MaskedConv(nn.Module):
    """A `TimeConv` that zeroes what lies past the length of its input."""

    def __init__(self, conv: TimeConv) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the convolution [B, C, S] of the valid frames of ``x``, and its lengths [B]."""
        out: tuple[torch.Tensor, torch.Tensor] = self.conv(mask_frames(x, lengths), lengths)
        return out


class GroupShuffle(nn.Module):
    """Interleave the channels of the groups, so that the next grouped convolution mixes them."""

    order: torch.Tensor

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        # On the CPU also when the module is built without storage: it is a constant, no weight.
        order = torch.arange(channels, device="cpu").reshape(groups, -1).T.flatten()
        self.register_buffer("order", order, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` [B, C, T] with its channels reordered."""
        return torch.index_select(x, 1, self.order)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the mean of its valid frames."""

    def __init__(self, channels: int, reduction_ratio: int, activation: str) -> None:
        super().__init__()
        squeezed = channels // reduction_ratio
        squeeze, excite = nn.Linear(channels, squeezed, bias=False), nn.Linear(squeezed, channels, bias=False)
        self.fc = nn.ModuleList([squeeze, _ACTIVATIONS[activation](), excite])

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``x`` [B, C, T], gated and zero past its lengths, and ``lengths`` as they are."""
        x = mask_frames(x, lengths)
        gate = x.sum(dim=-1, keepdim=True) / lengths.to(x.dtype)[:, None, None]
        # The linear layers as 1×1 convolutions: the channels stay first.
        squeeze, activation, excite = self.fc
        assert isinstance(squeeze, nn.Linear)
        assert isinstance(excite, nn.Linear)
        gate = activation(F.conv1d(gate, squeeze.weight.unsqueeze(-1)))
        gate = F.conv1d(gate, excite.weight.unsqueeze(-1))
        return x * torch.sigmoid(gate), lengths


class ConvBlock(nn.Module):
    """One block: repeated convolutions, a residual, an activation."""

    def __init__(self, channels: int, layer: Options, options: Mapping[str, Any]) -> None:
        """Build a block of ``channels`` inputs from its ``layer`` entry and the encoder's ``options``.

        Those are activation, normalization, norm_groups, conv_mask, residual_mode, and panes, the
        channels of each dense residual branch.
        """
        super().__init__()
        self.options = dict(options)
        filters = layer.whole("filters", 1, _MAX_CHANNELS)
        repeat = layer.whole("repeat", 1, _MAX_LAYERS)
        stride = layer.whole_or_list("stride", 1, _MAX_STEP)
        dilation = layer.whole_or_list("dilation", 1, _MAX_STEP)
        kernel = _kernel_size(
            layer.whole_or_list("kernel", 1, _MAX_KERNEL), layer.number("kernel_size_factor", 0, 100, 1.0)
        )
        stride_last = layer.flag("stride_last", False)
        residual = layer.flag("residual")
        dropout = layer.number("dropout", 0, 1, 0.0)
        future = layer.whole("future_context", -_MAX_KERNEL, _MAX_KERNEL, -1)
        groups, heads = (
            layer.whole("groups", 1, _MAX_CHANNELS, 1),
            layer.whole("heads", -1, _MAX_CHANNELS, -1),
        )
        separable = layer.flag("separable", False)
        squeezed, ratio = layer.flag("se", False), layer.whole("se_reduction_ratio", 1, _MAX_CHANNELS, 8)
        # NeMo interpolates nothing any more
        layer.ignore("se_interpolation_mode")
        if squeezed and layer.whole("se_context_size", -(2**31), 2**31, -1) > 0:
            raise UnsupportedOptionError(
                layer.where("se_context_size"),
                "a window is not supported: releases of NeMo before 1.6 average over windows of such a size, "
                "later ones over the whole recording",
                "write -1 for the whole recording",
            )
        layer.ignore("se_context_size")
        layer.finish()
        if stride > 1 and dilation > 1:
            raise ConfigError(layer.path, "a convolution has both a stride and a dilation above 1")
        if not options["conv_mask"] and (heads != -1 or future >= 0):
            name = "heads" if heads != -1 else "future_context"
            raise UnsupportedOptionError(
                layer.where(name), "is not supported where encoder.conv_mask is false"
            )
        padding = _padding(kernel, dilation, future)
        layers: list[nn.Module] = []
        for index in range(repeat):
            last = index == repeat - 1
            layers += self._conv_norm(
                channels if index == 0 else filters,
                filters,
                kernel,
                stride=stride if last or not stride_last else 1,
                dilation=dilation,
                padding=padding,
                groups=groups,
                heads=heads,
                separable=separable,
            )
            if not last:
                layers += [_ACTIVATIONS[options["activation"]](), nn.Dropout(dropout)]
        if squeezed:
            if ratio > filters:
                raise ConfigError(
                    layer.where("se_reduction_ratio"), f"{ratio} leaves none of {filters} channels"
                )
            layers.append(SqueezeExcite(filters, ratio, options["activation"]))
        self.mconv = nn.ModuleList(layers)
        self.res: nn.ModuleList | None = None
        self.dense = bool(residual and options["panes"])
        if residual:
            residual_stride = stride if options["residual_mode"] == "stride_add" else 1
            self.res = nn.ModuleList(
                nn.ModuleList(self._conv_norm(width, filters, 1, stride=residual_stride))
                for width in options["panes"] or [channels]
            )
        self.mout = nn.Sequential(_ACTIVATIONS[options["activation"]](), nn.Dropout(dropout))

    def _conv_norm(
        self,
        channels: int,
        filters: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
        heads: int = -1,
        separable: bool = False,
    ) -> list[nn.Module]:
        """Return depthwise and pointwise, or one convolution, then normalization and shuffle."""
        time: dict[str, Any] = {"stride": stride, "dilation": dilation, "padding": padding}
        if separable:
            convs = [
                TimeConv(channels, channels, kernel, groups=channels, heads=heads, **time),
                TimeConv(channels, filters, 1, groups=groups),
            ]
        elif heads != -1:
            raise ConfigError("encoder.jasper", "heads share the kernels of depthwise convolutions only")
        else:
            convs = [TimeConv(channels, filters, kernel, groups=groups, **time)]
        masked = self.options["conv_mask"]
        layers: list[nn.Module] = [MaskedConv(conv) if masked else conv for conv in convs]
        layers.append(_normalization(self.options["normalization"], filters, self.options["norm_groups"]))
        return [*layers, GroupShuffle(groups, filters)] if groups > 1 else layers

    def forward(
        self, inputs: list[torch.Tensor], lengths: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return what the next block takes: its inputs, this block's output [B, C, S] last, and lengths [B].

        ``inputs`` [B, C, T] are what dense residuals start from, the block's own input last.
        """
        out, out_lengths = _apply(self.mconv, inputs[-1], lengths)
        if self.res is not None:
            for branch, start in zip(self.res, inputs, strict=False):
                assert isinstance(branch, nn.ModuleList)
                side, _ = _apply(branch, start, lengths)
                out = torch.maximum(out, side) if self.options["residual_mode"] == "max" else out + side
        out = self.mout(out)
        return ([*inputs, out] if self.dense else [out]), out_lengths


def _apply(
    layers: nn.ModuleList, x: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run ``layers`` one after another, handing lengths to those that need them."""
    for layer in layers:
        if isinstance(layer, (TimeConv, MaskedConv, SqueezeExcite)):
            x, lengths = layer(x, lengths)
        else:
            x = layer(x)
    return x, lengths


class ConvEncoder(nn.Module):
    """The blocks, one after another."""

    def __init__(self, config: Options) -> None:
        super().__init__()
        read_module(config)
        activation = config.choice("activation", _ACTIVATIONS)
        channels = config.whole("feat_in", 1, _MAX_CHANNELS) * config.whole("frame_splicing", 1, 100, 1)
        common = {
            "activation": activation,
            "normalization": config.choice("normalization_mode", _NORMALIZATIONS, "batch"),
            "norm_groups": config.whole("norm_groups", -1, _MAX_CHANNELS, -1),
            "conv_mask": config.flag("conv_mask", True),
        }
        # NeMo's reading: a layer's residual mode also holds for the layers after it.
        residual_mode = config.choice("residual_mode", _RESIDUAL_MODES, "add")
        config.only("quantize", False)
        panes: list[int] = []
        blocks = []
        for layer in config.sections("jasper", _MAX_LAYERS):
            residual_mode = layer.choice("residual_mode", _RESIDUAL_MODES, residual_mode)
            dense = layer.flag("residual_dense", False)
            if dense:
                panes.append(channels)
            options = {**common, "residual_mode": residual_mode, "panes": list(panes) if dense else []}
            blocks.append(ConvBlock(channels, layer, options))
            channels = layer.whole("filters", 1, _MAX_CHANNELS)
        config.finish()
        #: of what it returns
        self.channels = channels
        self.encoder = nn.Sequential(*blocks)

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the encoding [B, C, S] of features [B, M, T], and its lengths [B]."""
        inputs = [features]
        for block in self.encoder:
            inputs, lengths = block(inputs, lengths)
        return inputs[-1], lengths


class ConvCtc(nn.Module):
    """Encoder and decoder: features to logits, before any softmax.

    ``config`` holds "encoder" and "decoder", the sections of that name of a NeMo model.  Raises
    ConfigError when they describe no network.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        encoder, decoder = parts(config)
        try:
            self.encoder = ConvEncoder(encoder)
            self.decoder = ConvDecoder(decoder, self.encoder.channels)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            # torch's own words for sizes that do not divide
            raise ConfigError("network", f"its configuration describes no network ({error})") from None

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits [B, S, V] of features [B, M, T] with lengths [B], and encoded lengths [B]."""
        encoded, encoded_lengths = self.encoder(features, lengths)
        return self.decoder(encoded), encoded_lengths


def subsampling_factor(config: Mapping[str, Any]) -> int:
    """Return how many input frames make one encoded frame."""
    factor = 1
    for layer in config["encoder"]["jasper"]:
        stride = int(_first(layer["stride"]))
        factor *= stride if layer.get("stride_last", False) else stride ** int(layer["repeat"])
    return factor


def _first(value: Any) -> Any:
    """Return a size written as ``11`` or as ``[11]``."""
    return value[0] if isinstance(value, (list, tuple)) else value


def _exact_quotient(channels: int, groups: int) -> int:
    """Return channels per group, or raise ConfigError when the groups are not equal."""
    if groups < 1 or channels % groups:
        raise ConfigError("encoder.jasper", f"{channels} channels do not split into {groups} groups")
    return channels // groups


def _kernel_size(size: int, factor: float) -> int:
    """Return the scaled kernel size: rounded down, at least 1, and odd."""
    return max(int(size * float(factor)), 1) | 1


def _padding(kernel: int, dilation: int, future_context: int) -> tuple[int, int]:
    """Return the zeros to the left and right of a kernel that sees ``future_context`` frames ahead."""
    half = dilation * (kernel - 1) // 2
    if future_context < 0 or kernel <= future_context:
        return half, half
    if dilation > 1:
        # NeMo's rule, one frame longer than the span needs for each step of dilation past the first
        return dilation * kernel - 1 - dilation * future_context, dilation * future_context
    return kernel - 1 - future_context, future_context


def _normalization(mode: str, channels: int, groups: int) -> nn.Module:
    """Return the normalization that NeMo names ``mode``."""
    match mode:
        case "batch":
            return nn.BatchNorm1d(channels, eps=1e-3)
        case "group":
            return nn.GroupNorm(channels if groups == -1 else groups, channels)
        case "instance":
            return nn.GroupNorm(channels, channels)
        case "layer":
            return nn.GroupNorm(1, channels)
    raise ConfigError("encoder", f"unknown normalization {mode!r}", "use batch, group, instance or layer")
