"""Watching the inputs of a network's batch normalizations, and the results of its layer normalizations.

Shapes: B batch, C channels, T frames.

A ``BatchNormObserver`` is a ``TorchFunctionMode``: while it is entered it sees every call of
``torch.nn.functional.batch_norm``, ``torch.batch_norm`` and the ATen operators behind them, so
it serves modules, functional code and graphs captured by ``torch.export`` alike.  Nothing is
installed on the network, hence nothing can be left behind on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

#: a channel whose stored variance is below this share of its layer's median is dead
DEAD_SHARE = 1e-6

# Where each spelling of batch normalization keeps (input, running_mean, running_var, training,
# eps); None for training: the operator is inference only.
_ATEN = torch.ops.aten
_CALLS: dict[Callable[..., Any], tuple[int, int, int, int | None, int]] = {
    functional.batch_norm: (0, 1, 2, 5, 7),
    torch.batch_norm: (0, 3, 4, 5, 7),
    _ATEN.batch_norm.default: (0, 3, 4, 5, 7),
    _ATEN._native_batch_norm_legit_no_training.default: (0, 3, 4, None, 6),
}
#: what normalizes a frame over its channels: (input, normalized_shape, weight, bias, eps)
_LAYER_NORMS = (functional.layer_norm, torch.layer_norm, _ATEN.layer_norm.default)
_NAMES = ("input", "running_mean", "running_var", "training", "eps")
_DEFAULTS: dict[str, Any] = {"training": False, "eps": 1e-5}


@dataclass(frozen=True)
class Site:
    """One batch normalization: what it stored; or one layer normalization: what β and γ promise."""

    #: the module's name, or the name of the buffer that holds the running mean
    name: str
    #: running mean of the live channels [C']
    mean: Tensor
    #: running variance of the live channels plus epsilon [C']
    var: Tensor
    #: which channels are live, bool [C]
    live: Tensor
    #: what normalization adds to a variance
    eps: float


class BatchNormObserver(TorchFunctionMode):
    """Collects the moments of every batch normalization's input while entered.

    ``moments`` maps a site's name to (mean [C'], variance + epsilon [C']) over batch and time,
    attached to the autograd graph.  Two rules keep every comparison finite:

    - Epsilon is added to batch and stored variances alike.  Normalization divides by
      ``sqrt(var + eps)``, so differences far below epsilon are invisible to the network too.
    - A channel is dead, and left out, when its stored variance is not above ``DEAD_SHARE``
      times its layer's median: a constant tells nothing about a range, and a tiny variance in
      a denominator would let one channel drown the rest of the network.

    With ``norms`` the results of layer normalizations over [B, T, C] are sites too, in ``priors``: were every
    channel standardized over time, as the frames are over channels, its mean would be β and its deviation
    |γ|.  It is a heuristic: training promised nothing of the kind.
    """

    def __init__(self, network: nn.Module, samples: bool = False, norms: bool = False) -> None:
        super().__init__()
        self._norms = norms
        #: layer normalization → mean and variance of its result, a channel each
        self.priors: dict[str, tuple[Tensor, Tensor]] = {}
        self._watch_samples = samples
        #: with ``samples``: the moments of layer l for the sample l mod B alone
        self.samples: dict[str, tuple[Tensor, Tensor]] = {}
        # tensors hash by identity, and a module hands its own buffer to the operator
        self._buffers = {id(tensor): name for name, tensor in _tensors(network)}
        self.sites: dict[str, Site] = {}
        self._parts: dict[str, list[tuple[Tensor, Tensor, int]]] = {}

    def clear(self) -> None:
        """Forget the moments of the last forward pass; sites stay known."""
        self._parts, self.samples, self.priors = {}, {}, {}

    @property
    def moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and variance by site; a normalization called more than once pools its calls."""
        return {name: pool(parts) for name, parts in self._parts.items()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Look at batch normalizations, then run the function unchanged."""
        kwargs = kwargs or {}
        places = _CALLS.get(func)
        if places is not None:
            self._see(*_arguments(places, args, kwargs))
        result = func(*args, **kwargs)
        if self._norms and func in _LAYER_NORMS and result.dim() == 3:
            self._see_norm(result, *(_given(args, kwargs, *place) for place in ((2, "weight"), (3, "bias"))))
        return result

    def _see_norm(self, y: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
        if weight is None or bias is None or weight.dim() != 1:
            return
        name = self._buffers.get(id(weight), f"layer_norm_{len(self.priors)}").removesuffix(".weight")
        if name not in self.sites:
            self.sites[name] = _site(name, bias, weight**2, 0.0)
        site = self.sites[name]
        if site.mean.numel():
            var, mean = torch.var_mean(y, dim=(0, 1), correction=0)
            self.priors[name] = (mean[site.live], var[site.live] + site.eps)

    def _see(self, x: Tensor, mean: Tensor | None, var: Tensor | None, training: bool, eps: float) -> None:
        # without stored statistics, or normalizing by its own batch, it is no site
        if mean is None or var is None or training:
            return
        name = self._buffers.get(id(mean), f"batch_norm_{len(self._parts)}")
        site = self.sites.get(name)
        if site is None:
            site = self.sites[name] = _site(name, mean, var, float(eps))
        if site.mean.numel() == 0:  # every channel is dead
            return
        axes = [axis for axis in range(x.dim()) if axis != 1]
        batch_var, batch_mean = torch.var_mean(x, dim=axes, correction=0)
        if site.mean.numel() < batch_mean.numel():
            batch_mean, batch_var = batch_mean[site.live], batch_var[site.live]
        part = (batch_mean, batch_var + site.eps, x.numel() // x.shape[1])
        if self._watch_samples and x.dim() == 3 and name not in self._parts:
            var_alone, mean_alone = torch.var_mean(x[len(self._parts) % len(x)], dim=1, correction=0)
            self.samples[name] = (mean_alone[site.live], var_alone[site.live] + site.eps)
        self._parts.setdefault(name, []).append(part)


def stores_statistics(network: nn.Module, example: tuple[Tensor, Tensor]) -> bool:
    """Tell whether a network normalizes by statistics that training left there; it is run on ``example``."""
    observer = BatchNormObserver(network)
    with torch.no_grad(), observer:
        network(*example)
    return any(site.mean.numel() for site in observer.sites.values())


def _site(name: str, mean: Tensor, var: Tensor, eps: float) -> Site:
    mean, var = mean.detach().float(), var.detach().float()
    live = torch.isfinite(mean) & torch.isfinite(var) & (var > DEAD_SHARE * var.median())
    # an epsilon of zero is legal; a live channel's variance is then its own floor
    eps = max(eps, DEAD_SHARE * float(var[live].median())) if bool(live.any()) else eps
    return Site(name, mean[live], var[live] + eps, live, eps)


def pool(parts: list[tuple[Tensor, Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance of all samples, from those of parts and their counts."""
    if len(parts) == 1:
        return parts[0][0], parts[0][1]
    total = sum(count for _, _, count in parts)
    mean = torch.stack([m * (n / total) for m, _, n in parts]).sum(dim=0)
    var = torch.stack([(v + (m - mean) ** 2) * (n / total) for m, v, n in parts]).sum(dim=0)
    return mean, var


def _arguments(
    places: tuple[int, int, int, int | None, int], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Any]:
    found: list[Any] = []
    for name, place in zip(_NAMES, places, strict=True):
        if place is not None and place < len(args):
            found.append(args[place])
        else:
            found.append(kwargs.get(name, _DEFAULTS.get(name)))
    return found


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str) -> Any:
    return args[place] if place < len(args) else kwargs.get(name)


def _tensors(network: nn.Module) -> Iterable[tuple[str, Tensor]]:
    for name, tensor in [*network.named_buffers(), *network.named_parameters()]:
        yield name.removesuffix(".running_mean") or name, tensor
