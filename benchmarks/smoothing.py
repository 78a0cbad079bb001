"""What smoothing the channels that share a scale does to a network with attention, part by part.

    python benchmarks/smoothing.py --checkpoint conformer.nemo --manifest train-clean-100/manifest.jsonl

Peaks and ranges come from synthetic features (seed 0) and from the first 16 recordings; figures are those of
the clean recordings.  Columns: words and frames that differ from float (%), KL of the frames' distributions,
SQNR of the log-probabilities (dB).
"""

from __future__ import annotations

import argparse

import torch
from levers import sqnr
from ranges import REAL, Features, Frames, differences, run

import zeroq_asr as zq
from zeroq_asr.calibration.calibrate import calibrate
from zeroq_asr.calibration.equalize import smooth
from zeroq_asr.capture.capture import capture, prepared_graph
from zeroq_asr.deployment.export import Deployment, export
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.lowering.lower import lower
from zeroq_asr.speech.audio import load_audio
from zeroq_asr.speech.frontend import Frontend

#: part → whether a place belongs to it
PARTS = {
    "everywhere": lambda place: True,
    "behind norms": lambda place: place.maker == place.value and "linear_v" not in place.value,
    "in values": lambda place: "linear_v" in place.value,
    "behind gates": lambda place: place.maker != place.value,
}
EXPONENTS = {"everywhere": (0.25, 0.5, 0.75)}


def measure(
    model: zq.AsrModel,
    graph: FloatGraph,
    stream: list[torch.Tensor],
    deployment: Deployment,
    features: Features,
    reference: Frames,
) -> str:
    observed = calibrate(graph, stream, zq.CalibrationSpec(margin=1.0))
    program = lower(
        graph,
        observed.ranges,
        zq.QuantSpec(),
        channels=model.frontend.features,
        max_frames=deployment.max_frames,
        means=observed.means,
    )
    found = run(export(program, deployment, "fused").to_bytes(), features)
    words, _, frames, kl = differences(model, reference, found)
    return f"{words:7.2f} {frames:7.2f} {kl:8.4f} {sqnr(reference, found):7.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--manifest", required=True)
    arguments = parser.parse_args()
    model = zq.load_checkpoint(arguments.checkpoint)
    plain = capture(model.network, model.example_input(), model.name)
    deployment = Deployment(model.name, model.frontend, model.tokenizer, 60.0, model.subsampling_factor)
    frontend, rate = Frontend(model.frontend), model.frontend.sample_rate
    features = [
        frontend.batch([load_audio(u.audio_path, rate)]) for u in zq.read_manifest(arguments.manifest)
    ]
    reference = run(export_float(plain, deployment).SerializeToString(), features)
    made = zq.synthesize(model)
    streams = {
        "synthetic": [torch.from_numpy(x) for x in made.features],
        "recordings": [torch.from_numpy(x[0][:, : n[0]]) for x, n in features[:REAL]],
    }
    graph = prepared_graph(plain)
    print(f"{'':36} {'words':>7} {'frames':>7} {'KL':>8} {'SQNR':>7}")
    for source, stream in streams.items():
        row = measure(model, graph, stream, deployment, features, reference)
        print(f"{source:36} {row}", flush=True)
        for part, belongs in PARTS.items():
            for exponent in EXPONENTS.get(part, (0.5,)):
                smoothed = smooth(graph, stream, exponent, belongs)
                row = measure(model, smoothed, stream, deployment, features, reference)
                print(f"{f'{source}, {part} {exponent}':36} {row}", flush=True)


if __name__ == "__main__":
    main()
