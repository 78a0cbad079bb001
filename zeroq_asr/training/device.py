"""Where training computes: the processor, or a GPU that PyTorch reaches by CUDA."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

#: number, among those of its machine, of a process that torchrun started
_PLACE = "LOCAL_RANK"


def device_of(name: str) -> torch.device:
    """Return the device that ``cpu``, ``cuda``, ``cuda:N`` or ``auto`` says.

    ``auto``: a GPU where there is one.  Of several GPUs ``cuda`` is the first; processes that torchrun
    started have the next each.  Raises ConfigError for a GPU that is not there.
    """
    count = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    place = os.environ.get(_PLACE, "")
    number = int(place) if place.isascii() and place.isdigit() else 0
    _, _, given = name.partition(":")
    wanted = int(given) if given else number % max(count, 1)
    if wanted >= count:
        there = f"PyTorch {torch.__version__} sees " + (f"cuda:0 to cuda:{count - 1}" if count else "no GPU")
        remedy = "choose another, or say --device cpu"
        raise ConfigError("--device", f"there is no {shown(name)}: {there}", remedy)
    return torch.device("cuda", wanted)


@contextlib.contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Convolve in whole float32, and by the same kernel every time, where a GPU would otherwise choose."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
