"""Weights into networks: every state dict is checked against the network before it is used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from zeroq_asr.architectures import ARCHITECTURES
from zeroq_asr.errors import CheckpointError, ConfigError


def build_network(
    path: str | os.PathLike[str], architecture: str, config: dict[str, Any], state: Mapping[str, Any]
) -> nn.Module:
    """Return the network ``architecture`` of ``config`` with the weights ``state``, ready for inference.

    Raises CheckpointError when the configuration describes no network, or weights are missing,
    surplus, of another shape or type, or not finite; each is named.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise CheckpointError(path, f"unknown architecture {architecture!r}", f"known: {known}")
    try:
        # Without storage: a damaged configuration cannot ask for memory before its shapes are checked.
        with torch.device("meta"):
            network = ARCHITECTURES[architecture](config)
    except ConfigError as error:
        raise CheckpointError(path, str(error)) from None
    network.load_state_dict(checked_state(path, network, state), assign=True)
    return freeze(network)


def freeze(network: nn.Module) -> nn.Module:
    """Put a network in inference mode and return it."""
    try:
        network.eval()
    except NotImplementedError:
        # An exported program cannot change its mode, which is part of its graph.
        for module in network.modules():
            module.training = False
    return network.requires_grad_(False)


def checked_state(
    path: str | os.PathLike[str], network: nn.Module, state: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Return ``state`` as float32 (counters as int64), or raise CheckpointError if it does not fit."""
    expected = network.state_dict()
    found = dict(state)
    for name, tensor in expected.items():
        # Counts training steps; old checkpoints lack it and inference does not read it.
        if name.endswith("num_batches_tracked"):
            found.setdefault(name, torch.zeros_like(tensor, device="cpu"))
    _refuse(path, "weights are missing", expected.keys() - found.keys())
    _refuse(path, "weights are surplus", found.keys() - expected.keys())
    _refuse(path, "weights are not dense tensors", (n for n, t in found.items() if not is_dense(t)))
    _refuse(
        path,
        "weights have the wrong shape",
        (
            f"{name} {list(found[name].shape)} instead of {list(tensor.shape)}"
            for name, tensor in expected.items()
            if found[name].shape != tensor.shape
        ),
    )
    _refuse(
        path,
        "weights have the wrong type",
        (
            f"{name} {found[name].dtype}"
            for name, tensor in expected.items()
            if found[name].is_floating_point() != tensor.is_floating_point() or found[name].is_complex()
        ),
    )
    converted = {
        name: found[name].detach().to(tensor.dtype).contiguous() for name, tensor in expected.items()
    }
    require_finite(path, converted)
    _refuse(
        path,
        "variances are negative",
        (name for name, t in converted.items() if name.endswith("running_var") and bool((t < 0).any())),
    )
    return converted


def require_finite(path: str | os.PathLike[str], state: Mapping[str, torch.Tensor]) -> None:
    """Raise CheckpointError naming the weights that contain NaN or infinity."""
    _refuse(
        path,
        "weights contain NaN or infinity",
        (name for name, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())),
    )


def is_dense(value: Any) -> bool:
    """Tell whether ``value`` is a tensor whose numbers lie in the CPU's memory, one by one."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.device.type == "cpu"
    )


def _refuse(path: str | os.PathLike[str], problem: str, names: Iterable[str]) -> None:
    """Raise CheckpointError naming the first of ``names``, if there are any."""
    listed = sorted(names)
    if listed:
        shown = ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "")
        raise CheckpointError(path, f"{len(listed)} {problem}: {shown}", "is the configuration this model's?")
