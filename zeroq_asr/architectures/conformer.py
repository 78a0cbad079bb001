"""Conformer and FastConformer CTC recognisers (Gulati et al., arXiv 2005.08100; Rekesh et al., 2305.05084).

::

    x ─► subsampling ─► (· √D) ─► N × layer ─► tokens
    layer: ½ feed-forward ─► attention ─► convolution ─► ½ feed-forward ─► norm

Every part normalises its input and is added to the stream; attention sees all valid frames, with relative
positions (Dai et al., arXiv 1901.02860, section 3.3).

Shapes: B batch, M mels, T input frames, S encoded frames, D model width, H heads, E = D / H, V tokens with
the blank last.  Module names are those of NeMo's checkpoints: a state dict fits as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from zeroq_asr.architectures.ctc_head import ConvDecoder, parts
from zeroq_asr.architectures.options import Options, UnsupportedOptionError
from zeroq_asr.architectures.quartznet import mask_frames
from zeroq_asr.architectures.subsampling import ConvSubsampling, valid_frames
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

#: what a score is where a frame lies past the length: far below every other
MASKED_SCORE = -10000.0
#: more layers or a wider model than this is a damaged configuration, not a model
_MAX_LAYERS, _MAX_WIDTH, _MAX_KERNEL, _MAX_EXPANSION = 1000, 65536, 1024, 64
_NORMALIZATIONS = ("batch_norm", "layer_norm")


class FeedForward(nn.Module):
    """Two linear layers with Swish between."""

    def __init__(self, width: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, inner, bias=bias)
        self.linear2 = nn.Linear(inner, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, S, D] to [B, S, D]."""
        out: torch.Tensor = self.linear2(F.silu(self.linear1(x)))
        return out


class Convolution(nn.Module):
    """Pointwise, GLU, depthwise over time, normalization, Swish, pointwise."""

    def __init__(self, width: int, kernel: int, norm: str, bias: bool) -> None:
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1, bias=bias)
        self.depthwise_conv = nn.Conv1d(
            width, width, kernel, padding=(kernel - 1) // 2, groups=width, bias=bias
        )
        self.batch_norm = _normalization(norm, width)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1, bias=bias)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Map [B, S, D] with lengths [B] to [B, S, D]."""
        x = F.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)
        x = self.depthwise_conv(mask_frames(x, lengths))
        if isinstance(self.batch_norm, nn.LayerNorm):
            x = self.batch_norm(x.transpose(1, 2)).transpose(1, 2)
        else:
            x = self.batch_norm(x)
        out: torch.Tensor = self.pointwise_conv2(F.silu(x)).transpose(1, 2)
        return out


class RelativeAttention(nn.Module):
    """Attention over all frames; a score is of content and of the distance between two frames.

    score(i, j) = ((q_i + u)·k_j + (q_i + v)·p_(i−j)) / √E
    """

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.linear_q = nn.Linear(width, width, bias=bias)
        self.linear_k = nn.Linear(width, width, bias=bias)
        self.linear_v = nn.Linear(width, width, bias=bias)
        self.linear_out = nn.Linear(width, width, bias=bias)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, self.size))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, self.size))

    def forward(self, x: torch.Tensor, positions: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Map [B, S, D] to [B, S, D]; ``positions`` [2S − 1, D], ``valid`` bool [B, S]."""
        batch, frames, width = x.shape
        q = self.linear_q(x).view(batch, frames, self.heads, self.size)
        k = self.linear_k(x).view(batch, frames, self.heads, self.size).transpose(1, 2)
        v = self.linear_v(x).view(batch, frames, self.heads, self.size).transpose(1, 2)
        p = self.linear_pos(positions).view(-1, self.heads, self.size).transpose(0, 1)
        content = torch.matmul((q + self.pos_bias_u).transpose(1, 2), k.transpose(2, 3))
        position = relative_shift(torch.matmul((q + self.pos_bias_v).transpose(1, 2), p.transpose(1, 2)))
        scores = (content + position) / math.sqrt(self.size)
        pair = valid[:, None, :, None] & valid[:, None, None, :]
        scores = scores.masked_fill(~pair, MASKED_SCORE)
        weights = torch.softmax(scores, dim=-1).masked_fill(~pair, 0.0)
        out = torch.matmul(weights, v).transpose(1, 2).reshape(batch, frames, width)
        mixed: torch.Tensor = self.linear_out(out)
        return mixed


def relative_shift(x: torch.Tensor) -> torch.Tensor:
    """Return [B, H, S, S] with entry (i, j) = x[i, S − 1 − i + j], x [B, H, S, 2S − 1] by falling distance.

    A column of zeros in front turns the diagonal shift into a change of shape (arXiv 1901.02860, appendix B).
    """
    batch, heads, frames, distances = x.shape
    padded = F.pad(x, (1, 0)).view(batch, heads, distances + 1, frames)
    return padded[:, :, 1:].reshape(batch, heads, frames, distances)[:, :, :, :frames]


def relative_positions(frames: int, width: int, device: torch.device) -> torch.Tensor:
    """Return sines and cosines [2S − 1, D] of the distances S − 1 down to 1 − S."""
    distances = torch.arange(frames - 1, -frames, -1, device=device, dtype=torch.float32)
    steps = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angles = distances[:, None] * torch.exp(steps * -(math.log(10000.0) / width))
    return torch.stack((torch.sin(angles), torch.cos(angles)), dim=2).reshape(-1, width)


class ConformerLayer(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, and a normalization."""

    def __init__(self, width: int, heads: int, inner: int, kernel: int, norm: str, bias: bool) -> None:
        super().__init__()
        self.norm_feed_forward1 = nn.LayerNorm(width)
        self.feed_forward1 = FeedForward(width, inner, bias)
        self.norm_self_att = nn.LayerNorm(width)
        self.self_attn = RelativeAttention(width, heads, bias)
        self.norm_conv = nn.LayerNorm(width)
        self.conv = Convolution(width, kernel, norm, bias)
        self.norm_feed_forward2 = nn.LayerNorm(width)
        self.feed_forward2 = FeedForward(width, inner, bias)
        self.norm_out = nn.LayerNorm(width)

    def forward(
        self, x: torch.Tensor, positions: torch.Tensor, valid: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Map the stream [B, S, D] to the next layer's."""
        x = x + 0.5 * self.feed_forward1(self.norm_feed_forward1(x))
        x = x + self.self_attn(self.norm_self_att(x), positions, valid)
        x = x + self.conv(self.norm_conv(x), lengths)
        x = x + 0.5 * self.feed_forward2(self.norm_feed_forward2(x))
        out: torch.Tensor = self.norm_out(x)
        return out


class ConformerEncoder(nn.Module):
    """Subsampling and the layers.  Raises ConfigError for options that are not supported."""

    def __init__(self, config: Options) -> None:
        super().__init__()
        width, heads = config.whole("d_model", 1, _MAX_WIDTH), config.whole("n_heads", 1, _MAX_WIDTH, 4)
        layers = config.whole("n_layers", 1, _MAX_LAYERS)
        inner = width * config.whole("ff_expansion_factor", 1, _MAX_EXPANSION, 4)
        kernel = config.whole("conv_kernel_size", 1, _MAX_KERNEL, 31)
        norm = config.choice("conv_norm_type", _NORMALIZATIONS, "batch_norm")
        bias = config.flag("use_bias", True)
        self.pre_encode = ConvSubsampling(
            config.whole("feat_in", 1, _MAX_WIDTH),
            width,
            _channels(config, width),
            config.whole("subsampling_factor", 1, 1024, 4),
            config.text("subsampling", "striding"),
        )
        self.width = width
        self.scale = math.sqrt(width) if config.flag("xscaling", True) else 1.0
        _read_the_rest(config, width, kernel)
        if width % heads:
            raise ConfigError(config.where("n_heads"), f"d_model {width} does not split into {heads} heads")
        if width % 2:
            raise ConfigError(
                config.where("d_model"), f"{width} is odd: positions are pairs of sine and cosine"
            )
        if kernel % 2 == 0:
            raise ConfigError(config.where("conv_kernel_size"), f"{kernel} must be odd")
        self.layers = nn.ModuleList(
            ConformerLayer(width, heads, inner, kernel, norm, bias) for _ in range(layers)
        )

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the encoding [B, S, D] of features [B, M, T], and its lengths [B]."""
        x, lengths = self.pre_encode(features, lengths)
        if self.scale != 1.0:
            x = x * self.scale
        frames = x.shape[1]
        positions = relative_positions(frames, self.width, x.device).to(x.dtype)
        valid = valid_frames(frames, lengths)
        for layer in self.layers:
            x = layer(x, positions, valid, lengths)
        return x, lengths


class ConformerCtc(nn.Module):
    """Encoder and decoder: features to logits, before any softmax.

    ``config`` holds "encoder" and "decoder", the sections of that name of a NeMo model.  Raises ConfigError
    when they describe no network, or one with options that are not supported.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        encoder, decoder = parts(config)
        try:
            self.encoder = ConformerEncoder(encoder)
            self.decoder = ConvDecoder(decoder, self.encoder.width)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            # torch's own words for sizes that make no tensor
            raise ConfigError("network", f"its configuration describes no network ({error})") from None

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits [B, S, V] of features [B, M, T] with lengths [B], and encoded lengths [B]."""
        encoded, encoded_lengths = self.encoder(features, lengths)
        return self.decoder(encoded.transpose(1, 2)), encoded_lengths


def subsampling_factor(config: Mapping[str, Any]) -> int:
    """Return how many input frames make one encoded frame."""
    return int(config["encoder"].get("subsampling_factor", 4))


def _channels(config: Options, width: int) -> int:
    """Return the channels of the subsampling: those of the model where NeMo is told −1."""
    channels = config.whole("subsampling_conv_channels", -1, _MAX_WIDTH, -1)
    if channels == 0:
        raise config.wrong("subsampling_conv_channels", "positive, or -1 for those of d_model")
    return width if channels == -1 else channels


def _read_the_rest(config: Options, width: int, kernel: int) -> None:
    """Read the options that leave the network as it is, and refuse the others by name."""
    full = "the context is not limited"
    config.only("self_attention_model", "rel_pos")
    contexts = config.raw("att_context_size")
    # of a list of contexts, NeMo takes the first but for training
    first = contexts[0] if isinstance(contexts, list | tuple) and contexts else contexts
    if not isinstance(first, list | tuple):
        config.only("att_context_size", [-1, -1], None, [], why=full)
    elif list(first) != [-1, -1]:
        raise UnsupportedOptionError(
            config.where("att_context_size"),
            f"{shown(contexts)} is not supported",
            f"supported: [-1, -1] ({full})",
        )
    config.only("att_context_style", "regular", why=full)
    half = (kernel - 1) // 2
    config.only("conv_context_size", None, [half, half], why="as many frames on either side")
    config.only("causal_downsampling", False)
    # without a factor NeMo reduces nothing, whatever the reduction
    if not _same_number(config.raw("reduction_factor", 1), 1):
        config.only("reduction", None)
    config.ignore("reduction", "reduction_position")
    config.only("feat_out", -1, width, None, 0, why="no projection behind the layers")
    config.only("global_tokens", 0)
    config.only("global_attn_separate", False)
    config.only("conv_dual_mode", False)
    config.ignore(
        "_target_",
        "cls",
        # which of several contexts a batch of the training sees
        "att_context_probs",
        # how NeMo works on memory, not what it computes
        "subsampling_conv_chunking_factor",
        "pos_emb_max_len",
        "sync_max_audio_length",
        "use_pytorch_sdpa",
        "use_pytorch_sdpa_backends",
        # layers that share the biases of their positions have a copy each in the state dict
        "untie_biases",
        "global_tokens_spacing",
        "dropout",
        "dropout_pre_encoder",
        "dropout_emb",
        "dropout_att",
        "stochastic_depth_drop_prob",
        "stochastic_depth_mode",
        "stochastic_depth_start_layer",
    )
    config.finish()


def _same_number(value: object, number: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == number


def _normalization(kind: str, width: int) -> nn.Module:
    """Return the normalization over the channels of [B, D, S] that NeMo names ``kind``."""
    return nn.BatchNorm1d(width) if kind == "batch_norm" else nn.LayerNorm(width)
