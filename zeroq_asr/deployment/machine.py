"""What the processor can multiply: the facts that decide which kernels are exact and fast on it.

On x86 without VNNI, ONNX Runtime multiplies u8 by s8 in pairs that saturate at int16, so neighbouring weights
must not be too large together (``integer/pair_saturation.py``); with VNNI, and on ARM, the products go
straight into int32.
"""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from zeroq_asr.config import QuantSpec

#: what Linux calls the instruction sets that matter here → what people call them
_FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX-INT8",
    "asimd": "NEON",
    "asimddp": "dot product",
    "i8mm": "I8MM",
}
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})
#: what macOS calls them
_APPLE = {"hw.optional.arm.FEAT_DotProd": "asimddp", "hw.optional.arm.FEAT_I8MM": "i8mm"}
_ARCHITECTURES = {"x86_64": "x86", "amd64": "x86", "i686": "x86", "aarch64": "arm", "arm64": "arm"}


@dataclass(frozen=True)
class Machine:
    """A processor."""

    #: as it calls itself
    processor: str
    #: "x86", "arm", or the system's own word for another
    architecture: str
    #: Linux's names of the instruction sets of `_FLAGS` that it has; empty where the system does not say
    features: frozenset[str]
    #: that this process may use
    cores: int

    @property
    def vnni(self) -> bool:
        """Whether u8 × s8 products go into int32 on x86."""
        return bool(self.features & _VNNI)

    @property
    def exact_at_full_range(self) -> bool:
        """Whether u8 × s8 kernels are exact with 8-bit weights."""
        return self.architecture == "arm" or (self.architecture == "x86" and self.vnni)

    def instruction_sets(self) -> list[str]:
        """Return the instruction sets that matter, as people call them."""
        return [name for flag, name in _FLAGS.items() if flag in self.features]

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {
            "processor": self.processor,
            "architecture": self.architecture,
            "instruction_sets": self.instruction_sets(),
            "cores": self.cores,
        }


def this_machine() -> Machine:
    """Describe the processor that this runs on; what the system does not tell is left out."""
    machine = platform.machine().lower()
    name, features = _linux() if platform.system() == "Linux" else _apple()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        processor=name or platform.processor() or machine,
        architecture=_ARCHITECTURES.get(machine, machine),
        features=frozenset(features) & frozenset(_FLAGS),
        cores=cores,
    )


def _linux(path: Path = Path("/proc/cpuinfo")) -> tuple[str, set[str]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return "", set()
    fields: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", ""), set(fields.get("flags", fields.get("Features", "")).split())


def _apple() -> tuple[str, set[str]]:
    return _sysctl("machdep.cpu.brand_string"), {
        flag for name, flag in _APPLE.items() if _sysctl(name) == "1"
    }


def _sysctl(name: str) -> str:
    """Return a value of macOS's kernel; "" on other systems."""
    try:
        found = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def best_target(machine: Machine, weight_bits: int) -> tuple[str, str]:
    """Return the target whose fused kernels are exact and fastest on ``machine``, and why."""
    if machine.architecture == "arm":
        return "arm", "u8 × s8 products are exact on ARM"
    if machine.architecture != "x86":
        return "x86-any", "it is exact everywhere, and what else is on this processor nobody knows"
    if weight_bits <= 7:
        return "x86-any", "weights of 7 bits or fewer are exact on every x86"
    if machine.exact_at_full_range:
        return "x86-vnni", "this processor has VNNI"
    if not machine.features:
        return "x86-any", "the system does not say whether this processor has VNNI"
    return "x86-any", "this processor has no VNNI, and pairs of weights that do not saturate are exact"


def settled(spec: QuantSpec, machine: Machine | None = None) -> QuantSpec:
    """Return ``spec`` with the target "auto" replaced by the best one for a machine, by default this one."""
    if spec.target != "auto":
        return spec
    target, _ = best_target(machine or this_machine(), spec.weight_bits)
    return replace(spec, target=target)
