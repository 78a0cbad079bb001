"""``zeroq-asr doctor``: what this machine is good for."""

from __future__ import annotations

from typing import Any

import typer

import zeroq_asr as zq
from zeroq_asr.cli.options import AsJson, Developer, Quiet
from zeroq_asr.cli.terminal import session


def doctor(
    ctx: typer.Context, as_json: AsJson = False, quiet: Quiet = False, developer: Developer = False
) -> None:
    """Tell which integer kernels are exact and fast on this machine, by trying them.

    Example: zeroq-asr doctor
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        found = zq.diagnose()
        terminal.result(found.to_dict(), found.targets[8][0])
        if not terminal.talks:
            return
        machine = found.machine
        terminal.title(machine.processor, f"{machine.cores} cores")
        terminal.facts(
            [
                ("instruction sets", ", ".join(machine.instruction_sets()) or "the system does not say"),
                ("system", found.system),
                ("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())),
                ("GPU", found.cuda or "no CUDA device"),
                *(
                    (f"--target auto, {bits} bits", f"{name}: {why}")
                    for bits, (name, why) in found.targets.items()
                ),
                *([] if found.openvino is None else [("OpenVINO", _openvino(found.openvino))]),
            ]
        )
        terminal.text()
        terminal.text("Kernels of ONNX Runtime on one thread, on operands that saturate what can:")
        terminal.table(
            ["convolution", "kernel", "exact", "GMAC/s", "× float"],
            [
                [
                    kernel.shape,
                    kernel.name,
                    {True: "yes", False: "no", None: "–"}[kernel.exact],
                    f"{kernel.rate / 1e9:.1f}",
                    f"{kernel.speedup:.2f}",
                ]
                for kernel in found.kernels
            ],
            left=(0, 1, 2),
        )


def _openvino(found: Any) -> str:
    if found.int64:
        return f"{found.version}: computes int64 as it is"
    return f"{found.version}: computes int64 in int32, so strict files are wrong on it; give it qdq files"
