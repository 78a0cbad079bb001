"""What speech does inside of a recogniser beyond its normalizations: it is attended near, and it is spelled.

Shapes: B utterances, H heads, S encoded frames, E channels of a head, V classes with the CTC blank last.

Three terms that synthesis can add to what it minimises, each with a weight of its own in ``SynthesisSpec``:

- ``locality``: ``distance`` of every attention, summed over attentions as the other terms are over layers;
- ``nonblank``: ``silence`` of the logits;
- ``confidence``: ``doubt`` of the logits.

None is in the literature as it stands here; none takes anything but the network.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from zeroq_asr.config import SynthesisSpec
from zeroq_asr.errors import SynthesisError

#: the share of an utterance's frames that should be other than blank.  Speech has 10 to 15 letters a second,
#: or half as many pieces: 0.2 to 0.3 of frames of 20 ms (letters) or of 40 ms (pieces), more of longer ones
NONBLANK = 0.2

_ATEN = torch.ops.aten
#: softmax, with the axis as second argument or ``dim``
_SOFTMAX = (
    functional.softmax,
    torch.softmax,
    torch.special.softmax,
    Tensor.softmax,
    _ATEN.softmax.int,
    _ATEN._softmax.default,
)
_FUSED = (functional.scaled_dot_product_attention, _ATEN.scaled_dot_product_attention.default)


def distance(attention: Tensor) -> Tensor:
    """How far an attention [B, H, S, S] looks, in shares of the utterance: 0 on the diagonal, below 1.

    The mean over utterances, heads and queries i of Σ_j a_ij · |i − j| / S.  Uniform attention has
    (S² − 1) / (3 S²), a third.
    """
    frames = attention.shape[-1]
    index = torch.arange(frames, device=attention.device)
    apart = (index[:, None] - index).abs() / frames
    return (attention.float() * apart).sum(dim=-1).mean()


def silence(logits: Tensor, target: float = NONBLANK) -> Tensor:
    """By how many nats utterances fall short of a share of frames that are not blank, of logits [B, S, V].

    The mean over utterances of max(0, ln target − ln p), p the mean over frames of 1 − P(blank).  In
    logarithms, or frames that are sure of their blank would feel nothing.
    """
    spoken = functional.log_softmax(logits.float(), dim=-1)[..., :-1].flatten(1).logsumexp(dim=1)
    return (math.log(target * logits.shape[1]) - spoken).clamp(min=0.0).mean()


def doubt(logits: Tensor) -> Tensor:
    """The mean entropy of a frame's classes in nats, of logits [B, S, V]; 0 where every frame is certain."""
    scores = functional.log_softmax(logits.float(), dim=-1)
    return -(scores.exp() * scores).sum(dim=-1).mean()


class SpeechLike(TorchFunctionMode):
    """Sees every self-attention of a forward pass while entered, and gives the terms that ``spec`` asks for.

    An attention is a softmax over the last axis of scores [B, H, S, S], however it is spelled;
    ``scaled_dot_product_attention`` with as many queries as keys, whose probabilities are computed beside it;
    or ``torch.nn.MultiheadAttention``, which is asked for its own.  As with ``BatchNormObserver``, nothing is
    installed on the network.
    """

    def __init__(self, name: str, spec: SynthesisSpec) -> None:
        super().__init__()
        self._name, self._spec = name, spec
        #: of every attention since ``terms`` was called, in the order of the calls
        self.distances: list[Tensor] = []

    def terms(self, logits: Tensor) -> list[Tensor]:
        """Return the weighted terms of the pass that gave ``logits`` [B, S, V], and forget the pass.

        Raises SynthesisError when locality is to be optimised and there was no attention.
        """
        spec, found, self.distances = self._spec, self.distances, []
        if spec.locality and spec.iterations and not found:
            raise SynthesisError(
                self._name,
                f"locality is {spec.locality:g}, but the network has no attention: "
                "no softmax of scores [B, H, S, S] over their last axis was seen",
                "leave locality at 0",
            )
        terms = [spec.locality * term for term in found]
        if spec.nonblank:
            terms.append(spec.nonblank * silence(logits))
        if spec.confidence:
            terms.append(spec.confidence * doubt(logits))
        return terms

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the function, and look at what it attends to if it is an attention."""
        kwargs = kwargs or {}
        if not self._spec.locality:
            return func(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            return self._multi_head(func, args, kwargs)
        result = func(*args, **kwargs)
        if func in _SOFTMAX and (args[1] if len(args) > 1 else kwargs.get("dim")) in (-1, 3):
            self._see(result)
        elif func in _FUSED:
            self._see(probabilities(*args, **kwargs))
        return result

    def _multi_head(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        # whatever runs inside of a function that was caught is not seen: its weights are asked for
        call = inspect.signature(func).bind(*args, **kwargs)
        call.apply_defaults()
        wanted, averaged = call.arguments["need_weights"], call.arguments["average_attn_weights"]
        call.arguments.update(need_weights=True, average_attn_weights=False)
        out, weights = func(*call.args, **call.kwargs)
        # [H, S, S] of a single utterance
        self._see(weights if weights.dim() == 4 else weights[None])
        return out, (weights.mean(dim=-3) if averaged else weights) if wanted else None

    def _see(self, attention: Tensor) -> None:
        if attention.dim() == 4 and attention.shape[-1] == attention.shape[-2]:
            self.distances.append(distance(attention))


def probabilities(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return what ``scaled_dot_product_attention`` multiplies ``value`` by, [.., S, S'], but for dropout."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if attn_mask is None:
        return scores.softmax(dim=-1)
    if attn_mask.dtype == torch.bool:
        # finite, for a query without any key must not become NaN
        return scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return (scores + attn_mask).softmax(dim=-1)
