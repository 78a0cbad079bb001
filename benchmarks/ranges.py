"""How ranges are best chosen, on speech without text: agreement with the float network.

    python benchmarks/ranges.py --checkpoint quartznet15x5.nemo --manifest train-clean-100/manifest.jsonl

Each recording is mixed with babble (five of the others and white noise) at 10 dB, which makes the
float network unsure and so the measure sharp.  Columns: words and characters that differ from the float
transcript, frames whose best token differs (all in %), and the mean KL divergence of the frames'
distributions (nats).

``--activations`` compares the rules at fewer bits of the activations instead.  ``--sensitivity`` instead
quantizes one kind of value at a time in the float graph and prints the KL on the first 20 clean recordings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

import zeroq_asr as zq
from zeroq_asr.calibration.calibrate import calibrate
from zeroq_asr.capture.capture import capture
from zeroq_asr.decoding.greedy import greedy_ctc
from zeroq_asr.deployment.export import Deployment, export
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.lowering.formats import byte_format
from zeroq_asr.lowering.lower import lower
from zeroq_asr.measure.evaluate import count_errors
from zeroq_asr.measure.replays import Replay
from zeroq_asr.measure.sensitivity import rounded
from zeroq_asr.speech.audio import load_audio
from zeroq_asr.speech.frontend import Frontend

Features = list[tuple[np.ndarray, np.ndarray]]
Frames = list[np.ndarray]
SNR_DB = 10.0
REAL = 16


@dataclass
class Bench:
    """The network, the recordings and what float makes of them."""

    model: zq.AsrModel
    graph: FloatGraph
    deployment: Deployment
    features: Features
    reference: Frames

    def row(
        self, label: str, stream: Sequence[torch.Tensor], spec: zq.CalibrationSpec, **fields: Any
    ) -> None:
        quantization = zq.QuantSpec(**fields)
        observed = calibrate(
            self.graph,
            stream,
            spec,
            levels=2**quantization.activation_bits - 1,
            covariances=quantization.feedback,
        )
        program = lower(
            self.graph,
            observed.ranges,
            quantization,
            channels=self.model.frontend.features,
            max_frames=6001,
            means=observed.means if quantization.bias_correction else None,
            covariances=observed.covariances,
        )
        found = run(export(program, self.deployment, "fused").to_bytes(), self.features)
        words, characters, frames, kl = differences(self.model, self.reference, found)
        print(f"{label:36} {words:7.2f} {characters:7.2f} {frames:7.2f} {kl:8.4f}", flush=True)


def differences(model: zq.AsrModel, truth: Frames, found: Frames) -> tuple[float, float, float, float]:
    """Words, characters and frames that differ (%), and the KL of the frames' distributions (nats)."""
    tokenizer = model.tokenizer

    def text(frames: np.ndarray) -> str:
        return tokenizer.decode(greedy_ctc(frames, len(frames), tokenizer.blank_id))

    words, characters = count_errors([text(f) for f in truth], [text(f) for f in found])
    pairs = list(zip(truth, found, strict=True))
    frames = np.concatenate([a.argmax(-1) != b.argmax(-1) for a, b in pairs]).mean()
    return 100 * (words.rate or 0), 100 * (characters.rate or 0), 100 * float(frames), divergence(pairs)


def divergence(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.concatenate([(np.exp(a) * (a - b)).sum(-1) for a, b in pairs]).mean())


def run(model: bytes, features: Features) -> Frames:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    results = []
    for x, length in features:
        scores, encoded = session.run(["logprobs", "encoded_lengths"], {"audio_signal": x, "length": length})
        results.append(scores[0, : encoded[0]])
    return results


def with_babble(waveforms: list[np.ndarray]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    mixed = []
    for i, speech in enumerate(waveforms):
        others = [waveforms[(i + k) % len(waveforms)] for k in (7, 19, 31, 43, 55)]
        babble = sum(np.resize(np.roll(o, generator.integers(16000)), len(speech)) for o in others)
        babble = babble + generator.standard_normal(len(speech)) * np.std(babble) * 0.3
        gain = speech.std() / babble.std() * 10 ** (-SNR_DB / 20)
        mixed.append((speech + gain * babble).astype(np.float32))
    return mixed


def ranges(bench: Bench, clean: Features, seeds: Sequence[int]) -> None:
    print(f"{'ranges from':36} {'words':>7} {'chars':>7} {'frames':>7} {'KL':>8}")
    real = [torch.from_numpy(x[0, :, : length[0]]) for x, length in clean[:REAL]]
    for margin in (1.0, 1.1):
        bench.row(f"{REAL} recordings x {margin}", real, zq.CalibrationSpec("audio", margin=margin))
    for seed in seeds:
        made = zq.synthesize(bench.model, zq.SynthesisSpec.preset("default", seed=seed))
        stream = [torch.from_numpy(x) for x in made.features]
        for margin in (1.0, 1.1, 1.2, 1.35):
            bench.row(f"synthetic, seed {seed} x {margin}", stream, zq.CalibrationSpec(margin=margin))
        percentile = zq.CalibrationSpec(method="percentile", percentile=99.999, margin=1.0)
        bench.row(f"synthetic, seed {seed}, 99.999 %", stream, percentile)
        bench.row(f"synthetic, seed {seed}, mse", stream, zq.CalibrationSpec(method="mse", margin=1.0))
        default = zq.CalibrationSpec()
        bench.row(f"W8A8 uncorrected, seed {seed}", stream, default, bias_correction=False)
        bench.row(f"W4A8, seed {seed}", stream, default, weight_bits=4)
        for corrected in (True, False):
            label = f"W4A8 to nearest{'' if corrected else ' uncorrected'}, seed {seed}"
            fields = {"rounding": "nearest", "bias_correction": corrected}
            bench.row(label, stream, default, weight_bits=4, **fields)


def activations(bench: Bench, seeds: Sequence[int]) -> None:
    print(f"{'activations':36} {'words':>7} {'chars':>7} {'frames':>7} {'KL':>8}")
    for seed in seeds:
        made = zq.synthesize(bench.model, zq.SynthesisSpec.preset("default", seed=seed))
        stream = [torch.from_numpy(x) for x in made.features]
        for bits in (7, 6, 5):
            extremes = zq.CalibrationSpec(method="minmax")
            bench.row(f"{bits} bits, seed {seed} x 1.1", stream, extremes, activation_bits=bits)
            for kept in (99.999, 99.99):
                spec = zq.CalibrationSpec(method="percentile", percentile=kept, margin=1.0)
                bench.row(f"{bits} bits, seed {seed}, {kept} %", stream, spec, activation_bits=bits)


def sensitivity(bench: Bench) -> None:
    made = zq.synthesize(bench.model)
    stream = [torch.from_numpy(x) for x in made.features]
    limits = calibrate(bench.graph, stream, zq.CalibrationSpec(margin=1.0)).ranges
    bytes_ = {name: byte_format(real, 8) for name, real in limits.items()}
    consumers = bench.graph.consumers()

    def kind(node: FloatNode) -> str:
        if node.op != "conv1d":
            return "sum" if node.op == "add" else ""
        if node.attrs["groups"] > 1:
            return "depthwise"
        if any(reader.op == "add" for reader in consumers.get(node.out, [])):
            return "operand of a sum"
        return "relu" if node.attrs.get("clamp") else ""

    members = {bench.graph.inputs[0]: "input", **{node.out: kind(node) for node in bench.graph.nodes}}

    def frames(kinds: set[str]) -> Frames:
        changes = {
            name: partial(rounded, info=bytes_[name]) for name, kind in members.items() if kind in kinds
        }
        results = []
        for x, length in bench.features:
            replay = Replay(bench.graph, torch.from_numpy(x), torch.from_numpy(length))
            results.append(torch.log_softmax(replay.logits(changes), -1).numpy())
        return results

    kinds = ["input", "depthwise", "relu", "operand of a sum", "sum"]
    for chosen in [*({k} for k in kinds), set(kinds)]:
        pairs = list(zip(bench.reference, frames(chosen), strict=True))
        print(f"{' + '.join(sorted(chosen)):60} {divergence(pairs):8.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--activations", action="store_true")
    parser.add_argument("--sensitivity", action="store_true")
    arguments = parser.parse_args()

    model = zq.load_checkpoint(arguments.checkpoint)
    graph = capture(model.network, model.example_input(), model.name)
    deployment = Deployment(model.name, model.frontend, model.tokenizer, 60.0, model.subsampling_factor)
    frontend = Frontend(model.frontend)
    rate = model.frontend.sample_rate
    waveforms = [load_audio(u.audio_path, rate) for u in zq.read_manifest(arguments.manifest)]
    clean = [frontend.batch([w]) for w in waveforms]
    used = clean[:20] if arguments.sensitivity else [frontend.batch([w]) for w in with_babble(waveforms)]
    reference = run(export_float(graph, deployment).SerializeToString(), used)
    bench = Bench(model, graph, deployment, used, reference)
    if arguments.sensitivity:
        sensitivity(bench)
    elif arguments.activations:
        activations(bench, arguments.seeds)
    else:
        ranges(bench, clean, arguments.seeds)


if __name__ == "__main__":
    main()
