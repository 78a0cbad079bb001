"""What transformers of the usual size cost: wav2vec 2.0 base and HuBERT base with random weights.

    python benchmarks/waveform_transformers.py [--model wav2vec2|hubert] [--seconds 10] [--rounds 15]

Random weights are good enough for sizes, times and equal integers; they say nothing of words.  The script
prints the time and memory of ``quantize``, how many logits differ between `fused` and `strict`, and times of
one interleaved run on one thread: ``× float`` is the time over that of the float file.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers

import zeroq_asr as zq
from zeroq_asr.capture.capture import capture
from zeroq_asr.deployment.export import export
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.deployment.machine import this_machine
from zeroq_asr.deployment.recognizer import open_session
from zeroq_asr.lines import size
from zeroq_asr.measure.bench.contenders import BASELINE, of_onnx
from zeroq_asr.measure.bench.measure import measure
from zeroq_asr.model import AsrModel
from zeroq_asr.progress import silent

MODELS = {
    "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2ForCTC),
    "hubert": (transformers.HubertConfig, transformers.HubertForCTC),
}
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
RATE = 16000


def random_model(kind: str, folder: Path) -> AsrModel:
    """A model of the base shape, as a folder that transformers wrote."""
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    config_class, model_class = MODELS[kind]
    model_class(config_class(vocab_size=len(TOKENS))).save_pretrained(folder)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}))
    transformers.Wav2Vec2CTCTokenizer(str(vocabulary), pad_token="<pad>").save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return zq.load_checkpoint(folder)


def differing(a: bytes, b: bytes, waveform: np.ndarray) -> tuple[int, int]:
    """Logits of two files that differ, and all of them."""
    feed = {"audio_signal": waveform, "length": np.array([waveform.shape[2]])}
    first, second = (open_session("file", data, 1).run(["logits"], feed)[0] for data in (a, b))
    return int((first != second).sum()), first.size


def report(kind: str, seconds: float, rounds: int) -> None:
    machine = this_machine()
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(kind, Path(folder))
    start = time.perf_counter()
    made = zq.quantize(model)
    took = time.perf_counter() - start
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in made.seconds.items() if value >= 0.1)
    print(f"{kind} base, {model.float_bytes / 4e6:.1f} M parameters: {size(model.float_bytes)}")
    print(f"  quantize  {took:.1f} s ({stages}), {size(peak)} at the peak")
    print(f"  file      {size(made.size)}, {model.float_bytes / made.size:.2f} times smaller")
    proof = made.proof
    print(f"  proof     {proof.instructions} instructions, up to {proof.max_frames / RATE:g} s of audio")

    waveform = np.random.default_rng(0).standard_normal((1, 1, round(seconds * RATE))).astype(np.float32)
    fused, strict = (export(made.program, made.deployment, d).to_bytes() for d in ("fused", "strict"))
    count, every = differing(strict, fused, waveform)
    print(f"  integers  fused and strict: {count} of {every} logits differ")

    graph = capture(model.network, model.example_input(), model.name)
    contenders = [of_onnx(BASELINE, "float", export_float(graph, made.deployment).SerializeToString())]
    contenders += [of_onnx("fused W8", "fused", fused), of_onnx("strict W8", "strict", strict)]
    rows = measure(
        contenders,
        waveform,
        seconds=seconds,
        threads=1,
        rounds=rounds,
        baseline=BASELINE,
        progress=silent,
        stage="measure",
    )
    print(f"\n  {seconds:g} s of audio, 1 thread, median of {rounds}; {machine.processor}")
    print(f"  {'':24} {'ms':>7} {'× float':>8} {'spread':>7} {'size':>8} {'load ms':>8} {'memory':>8}")
    for row in rows:
        if row.median is None or row.speedup is None or row.spread is None:
            print(f"  {row.label:24} {row.absent}")
            continue
        cells = f"{1e3 * row.median:7.0f} {1 / row.speedup:8.2f} {100 * row.spread:5.0f} %"
        load = "–" if row.load_seconds is None else f"{1e3 * row.load_seconds:.0f}"
        memory = "–" if row.peak_bytes is None else size(row.peak_bytes)
        print(f"  {row.label:24} {cells} {size(row.size or 0):>8} {load:>8} {memory:>8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=[*MODELS], action="append")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    for kind in arguments.model or MODELS:
        report(kind, arguments.seconds, arguments.rounds)


if __name__ == "__main__":
    main()
