"""Weights into networks: every state dict is checked against the network before it is used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from zeroq_asr.architectures import ARCHITECTURES
from zeroq_asr.architectures.options import UnsupportedOptionError
from zeroq_asr.errors import CheckpointError, ConfigError, UnsupportedModelError
from zeroq_asr.lines import printable, shorten, shown

#: weights that an error names, and characters of each
_LISTED, _NAME = 5, 160


#: what wrappers of modules put between the names: of parallel, compiled and checkpointed ones
_WRAPPERS = frozenset(
    {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
)
#: counts training steps; old checkpoints lack it and inference does not read it
_COUNTER = "num_batches_tracked"


def build_network(
    path: str | os.PathLike[str], architecture: str, config: dict[str, Any], state: dict[str, Any]
) -> nn.Module:
    """Return the network ``architecture`` of ``config`` with the weights ``state``, ready for inference.

    ``state`` is used up, so that its tensors are not held twice.  Raises CheckpointError when the
    configuration describes no network, or weights are missing, surplus, of another shape or type, or not
    finite; each is named.
    """
    return filled(path, empty_network(path, architecture, config), state)


def empty_network(path: str | os.PathLike[str], architecture: str, config: dict[str, Any]) -> nn.Module:
    """Return the network of ``config`` without memory for its weights, or raise CheckpointError.

    A damaged configuration cannot ask for memory before the shapes of its weights are checked.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise CheckpointError(path, f"unknown architecture {shown(architecture)}", f"known: {known}")
    try:
        with torch.device("meta"):
            return ARCHITECTURES[architecture](config)
    except UnsupportedOptionError as error:
        raise UnsupportedModelError(path, f"{error.where}: {error.problem}", error.remedy) from None
    except ConfigError as error:
        raise CheckpointError(path, f"{error.where}: {error.problem}", error.remedy) from None


def filled(path: str | os.PathLike[str], network: nn.Module, state: dict[str, Any]) -> nn.Module:
    """Return ``network`` with the weights ``state``, which are used up; else as `build_network`."""
    network.load_state_dict(checked_state(path, network, state), assign=True)
    return freeze(network)


def unwrapped(path: str | os.PathLike[str], state: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    """Return ``state`` by the names that are ``expected``, where only a prefix of them all stands between.

    Data-parallel, compiled and other wrappers put one before every name, ``module.`` or ``model.``.  Names
    stay as they are where that does not make them fit.  Raises CheckpointError when several prefixes do.
    """
    needed = [name for name in expected if not name.endswith(_COUNTER)]
    if not needed or all(name in state for name in needed):
        return state
    bare = {".".join(p for p in name.split(".") if p not in _WRAPPERS): name for name in state}
    for names in ({name: name for name in state}, bare):
        if len(names) < len(state):
            continue
        # the prefixes under which one name is there, then those under which all are
        before = [name[: -len(needed[0])] for name in names if f".{name}".endswith(f".{needed[0]}")]
        fitting = [prefix for prefix in before if all(prefix + name in names for name in needed)]
        if len(fitting) > 1:
            listed = ", ".join(shown(prefix) for prefix in fitting[:3])
            raise CheckpointError(
                path,
                f"holds the weights {len(fitting)} times, by names that begin with {listed}",
                "keep one of them",
            )
        if fitting:
            new = {name.removeprefix(fitting[0]): state[old] for name, old in names.items()}
            return new if len(new) == len(state) else state
    return state


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
    path: str | os.PathLike[str], network: nn.Module, state: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Return ``state`` as float32 (counters as int64), or raise CheckpointError if it does not fit.

    ``state`` is used up, so that no tensor is held in two types for longer than it takes to convert it.
    """
    expected = network.state_dict()
    missing = [name for name in expected if name not in state and not name.endswith(_COUNTER)]
    _refuse(path, "weights are missing", missing, _shared_prefix(state, expected) if missing else "")
    for name, tensor in expected.items():
        if name.endswith(_COUNTER):
            state.setdefault(name, torch.zeros_like(tensor, device="cpu"))
    _refuse(path, "weights are surplus", state.keys() - expected.keys())
    _refuse(path, "weights are not dense tensors", (n for n, t in state.items() if not is_dense(t)))
    _refuse(
        path,
        "weights have the wrong shape",
        (
            f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
            for name, tensor in expected.items()
            if state[name].shape != tensor.shape
        ),
    )
    _refuse(
        path,
        "weights have the wrong type",
        (
            f"{name} {state[name].dtype}"
            for name, tensor in expected.items()
            if state[name].is_floating_point() != tensor.is_floating_point() or state[name].is_complex()
        ),
    )
    converted = {
        name: state.pop(name).detach().to(tensor.dtype).contiguous() for name, tensor in expected.items()
    }
    require_finite(path, converted)
    _refuse(
        path,
        "variances are negative",
        (name for name, t in converted.items() if name.endswith("running_var") and bool((t < 0).any())),
    )
    return converted


def _shared_prefix(state: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return what to do about a first part that all names share and none should have."""
    first = {name.partition(".")[0] for name in state}
    if len(first) != 1 or first & {name.partition(".")[0] for name in expected}:
        return ""
    return f"every name in the file begins with {shown(first.pop() + '.')}: is it this model?"


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
        # an expanded tensor stands for more numbers than there are
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _refuse(path: str | os.PathLike[str], problem: str, names: Iterable[str], remedy: str = "") -> None:
    """Raise CheckpointError naming the first of ``names``, if there are any."""
    listed = sorted(names)
    if listed:
        first = ", ".join(printable(shorten(name, _NAME)) for name in listed[:_LISTED])
        more = ", …" if len(listed) > _LISTED else ""
        raise CheckpointError(
            path, f"{len(listed)} {problem}: {first}{more}", remedy or "is the configuration this model's?"
        )
