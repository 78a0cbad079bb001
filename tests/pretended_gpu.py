"""A GPU that is pretended: its tensors lie on the CPU, and mixing them with the CPU's own fails as on a GPU.

What runs within ``PretendedGpu`` computes true values.  A tensor is on the GPU where it was moved there, was
made there, or was computed of one that is; operations that take tensors of both sides raise RuntimeError as
PyTorch does, but for those that it allows: scalars without axes, indices, and copies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
#: operators that take tensors of both sides
_ACROSS = ("aten::copy_", "aten::index", "aten::index_put_", "aten::_index_put_impl_")


class _Propagated(TorchDispatchMode):
    """Says of every result whether it is on the GPU, those of backward passes among them."""

    def __init__(self) -> None:
        super().__init__()
        #: storages by address; held, so that no other takes the address of one
        self.held: dict[int, torch.UntypedStorage] = {}
        self.seen: set[str] = set()

    def holds(self, value: Tensor) -> bool:
        return value.untyped_storage().data_ptr() in self.held

    def hold(self, value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr():
            self.held[storage.data_ptr()] = storage
        return value

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        given = [one for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor)]
        there = [self.holds(one) for one in given]
        here = [one for one, on in zip(given, there, strict=True) if not on and one.dim() and one.numel()]
        name = func._schema.name
        if any(there) and here and name not in _ACROSS:
            raise RuntimeError(f"{name}: tensors on cuda:0 and cpu, of shape {tuple(here[0].shape)}")
        made = func(*args, **(kwargs or {}))
        if any(there) and (name not in _ACROSS or there[0]):
            self.seen.add(name)
            for one in tree_leaves(made):
                if isinstance(one, Tensor):
                    self.hold(one)
        return made


class PretendedGpu(TorchFunctionMode):
    """Answers what Python asks of devices; ``computed`` names the operators that ran on the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self._below = _Propagated()

    @property
    def computed(self) -> set[str]:
        return self._below.seen

    def holds(self, value: Tensor) -> bool:
        return self._below.holds(value)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]  # a getset descriptor
            return GPU if self.holds(args[0]) else func(*args)
        if func is Tensor.numpy and self.holds(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is Tensor.cpu:
            return self._moved(args[0], torch.device("cpu"), copy=False)
        if func is Tensor.to:
            wanted = [one for one in args[1:] if isinstance(one, torch.device | str)]
            if wanted and len(args) == 2:
                return self._moved(args[0], torch.device(wanted[0]), **kwargs)
            if any(isinstance(one, Tensor) for one in args[1:]):  # the type and the device of another
                other = args[1]
                made = func(args[0], other.dtype)
                return self._moved(made, GPU if self.holds(other) else torch.device("cpu"), copy=False)
        if "device" in kwargs and kwargs["device"] is not None:
            device = torch.device(kwargs.pop("device"))
            made = func(*args, **kwargs, device="cpu")
            return self._below.hold(made) if device == GPU else made
        return func(*args, **kwargs)

    def _moved(self, value: Tensor, device: torch.device, *, copy: bool = False) -> Tensor:
        there = self.holds(value)
        if there == (device == GPU):
            return value.clone() if copy else value
        if there:
            with torch.no_grad():
                made = torch.empty(value.shape, dtype=value.dtype).copy_(value)
            return made
        return self._below.hold(value.clone())


@contextlib.contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """Pretend within the block; what it computes must be of the thread that enters it."""
    mode = PretendedGpu()
    with mode._below, mode:
        yield mode
