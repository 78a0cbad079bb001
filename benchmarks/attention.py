"""How much of a softmax's mass the integer numerators lose, a layer and its worst head.

    python benchmarks/attention.py --checkpoint conformer.nemo --file conformer.int8.onnx --manifest list

The utterance has ``--seconds`` and is made of the manifest's recordings, one after another.  Exact softmax is
computed over the same integer scores; its mass is lost where the integer numerator of a score is 0.  Figures
are the mean share that is lost over frames, in percent.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

import zeroq_asr as zq
from zeroq_asr.deployment.verify import load_onnx, read_program
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Instruction, Program
from zeroq_asr.speech.audio import load_audio
from zeroq_asr.speech.frontend import Frontend


def lost_mass(
    i: Instruction, operands: list[np.ndarray], constants: dict[str, np.ndarray], unit: float
) -> np.ndarray:
    """Return the share of each head [H]; ``unit``: what an integer score is worth."""
    a, f = i.attrs, NumpyBackend()
    heads, size = a["heads"], a["size"]

    def scores(query: np.ndarray, key: np.ndarray, za: int, zb: int) -> np.ndarray:
        queries = f.rearrange(query, "b (h e) t -> b h t e", h=heads, e=size)
        return f.matmul(
            queries, f.rearrange(key, "b (h e) t -> b h e t", h=heads, e=size), za=za, zb=zb, terms=size
        ).astype(np.int64)

    score = scores(operands[0], operands[1], a["zq"], a["zk"]) * a["up"]
    if len(operands) > 3:
        score += f.relative_shift(scores(operands[-2], operands[-1], a["zp"], a["zr"])) * a["mp"]
    below = score.max(axis=-1, keepdims=True) - score
    index = np.minimum(below, a["cap"]) >> a["shift"]
    high, low = (constants[name].astype(np.int64) for name in i.ins[5:7])
    probability = np.exp(-unit * below)
    probability /= probability.sum(axis=-1, keepdims=True)
    lost = np.where((high | low)[index] == 0, probability, 0.0).sum(axis=-1)
    share: np.ndarray = lost.mean(axis=(0, 2))
    return share


def score_units(program: Program, graph_scales: dict[str, float]) -> dict[str, float]:
    """Return attention → what an integer score is worth."""
    units = {}
    for i in program.code:
        if i.op == "attention":
            query, key = (program.values[name].scale for name in i.ins[:2])
            units[i.out] = graph_scales[i.out] * query * key / i.attrs["up"]
    return units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--file", required=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    from zeroq_asr.capture.capture import capture

    model = zq.load_checkpoint(arguments.checkpoint)
    program, _, _ = read_program(load_onnx(arguments.file))
    graph = capture(model.network, model.example_input(), model.name)
    scales = {n.out: n.attrs["scale"] for n in graph.nodes if n.op == "attention"}
    units = score_units(program, scales)
    rate = model.frontend.sample_rate
    speech = [load_audio(u.audio_path, rate) for u in zq.read_manifest(arguments.manifest)]
    waveform = np.concatenate(speech)[: round(arguments.seconds * rate)]
    features, length = Frontend(model.frontend)(waveform)
    kept: dict[str, Any] = {}
    shares: dict[str, np.ndarray] = {}

    def observe(i: Instruction, result: torch.Tensor) -> None:
        if i.op == "attention":
            names = [*i.ins[:3], *i.ins[7:]]
            shares[i.out] = lost_mass(i, [kept[n] for n in names], program.constants, units[i.out])
        if result.dtype == torch.uint8:
            kept[i.out] = result.numpy()

    with torch.inference_mode():
        x = torch.from_numpy(features[None, :, :length])
        program.run(TorchBackend(), x, torch.tensor([length]), observe=observe)
    print(f"{'':44} {'mean':>8} {'worst head':>11}")
    for name, share in shares.items():
        print(f"{name:44} {100 * share.mean():8.4f} {100 * share.max():11.4f}")
    every = np.stack(list(shares.values()))
    print(f"{'all':44} {100 * every.mean():8.4f} {100 * every.max():11.4f}")


if __name__ == "__main__":
    main()
