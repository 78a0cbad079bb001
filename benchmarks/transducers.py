"""What a transducer loses in integers without data, beside recordings and noise.

    python benchmarks/transducers.py --checkpoint transducer.pt --manifest test.jsonl \
        --calibration-manifest calibration.jsonl --bits w4a8

Rows: the float network; ranges without data, a row a seed (of features and of labels alike) and their mean;
ranges of the first 16 recordings; ranges of noise; and the three parts by ONNX Runtime's dynamic quantizer,
whose files hold tables of positions in float.  Columns: the word error rate (%) of greedy decoding, the
words (%) that differ from the float network's own transcript, how often (%) the best token is the float
network's along its own path through frames and tokens, the bytes of all files, and the seconds that
quantizing took.  Without ``--manifest`` the embedded test clips are heard.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
from hearing import our_warnings_alone, parser

import zeroq_asr as zq
from zeroq_asr.capture.transducer import capture_transducer
from zeroq_asr.deployment.float_transducer import FloatTransducer, export_float_transducer
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.deployment.transducer import AnyTransducer
from zeroq_asr.measure.evaluate import count_errors
from zeroq_asr.measure.onnxruntime_quantizers import ort_dynamic, preprocess
from zeroq_asr.measure.said import Distance, hear
from zeroq_asr.speech.audio import AudioReader

REAL = 16


class Heard:
    """Recordings as the float network hears them: features, texts, and what it says of each."""

    def __init__(self, model: zq.TransducerModel, manifests: list[str], limit: int | None) -> None:
        utterances = [u for path in manifests for u in zq.read_manifest(path)[:limit]]
        frontend = zq.Frontend(model.frontend)
        with AudioReader(model.frontend.sample_rate) as read:
            self.features = [frontend.batch([read(u)]) for u in utterances]
        self.spoken = [u.text or "" for u in utterances]
        recognizer = zq.TransducerRecognizer(model)
        self.truth = [hear(recognizer, given) for given in self.features]

    def figures(self, recognizer: AnyTransducer) -> list[float]:
        """Word errors, words that differ, and how often the best token is the float network's, %."""
        distance, texts = Distance(), []
        for given, truth in zip(self.features, self.truth, strict=True):
            found = hear(recognizer, given, truth.path)
            texts.append(found.text)
            distance = distance.plus(truth, found)
        wrong = [
            count_errors(of, texts)[0].rate or 0 for of in (self.spoken, [one.text for one in self.truth])
        ]
        return [*(100 * rate for rate in wrong), 100 * (1 - distance.wrong / max(distance.steps, 1))]


def dynamic(model: zq.TransducerModel, deployment: Deployment) -> tuple[AnyTransducer, int]:
    """ONNX Runtime's dynamic quantizer of the three parts, and the bytes that it gives."""
    graphs = capture_transducer(model.network, model.example_input(), model.name)
    made = export_float_transducer(graphs, deployment, quantizable=True)
    files = {part: ort_dynamic(preprocess(one)) for part, one in made.items()}
    return FloatTransducer(files, graphs, deployment, 1), sum(map(len, files.values()))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--calibration-manifest", help=f"for a row of its first {REAL} recordings")
    options.add_argument("--bits", default="8", help="as of `quantize`: 8 or w4a8")
    options.add_argument("--head", default="auto", help="which head of a hybrid")
    arguments = options.parse_args()
    our_warnings_alone()
    model = zq.load_model(arguments.checkpoint, loader=arguments.loader, head=arguments.head)
    if not isinstance(model, zq.TransducerModel):
        raise SystemExit(f"error: {arguments.checkpoint} is no transducer")
    heard = Heard(model, arguments.manifest, arguments.limit)
    deployments: list[Deployment] = []

    def show(name: str, values: list[float]) -> None:
        print(f"{name:<28}" + "".join(f"{value:>9.2f}" for value in values), flush=True)

    def row(name: str, seed: int, calibration: zq.CalibrationSpec) -> list[float]:
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            made = zq.quantize_transducer(
                model,
                Path(folder) / "bundle",
                spec=zq.QuantSpec.parse_bits(arguments.bits),
                synthesis=dataclasses.replace(zq.SynthesisSpec.preset("default"), seed=seed),
                calibration=calibration,
                labels=zq.LabelSpec(label_seed=seed),
            )
            seconds = time.perf_counter() - begun
            values = [*heard.figures(zq.IntegerTransducer.of_folder(Path(folder) / "bundle", 1))]
        values += [made.size / 1e6, seconds]
        show(name, values)
        deployments.append(made.deployment)
        return values

    print(f"{'':<28}" + "".join(f"{name:>9}" for name in ("WER", "words", "best", "MB", "s")))
    show("float", [*heard.figures(zq.TransducerRecognizer(model)), model.float_bytes / 1e6, 0.0])
    rows = [row(f"data-free, seed {seed}", seed, zq.CalibrationSpec()) for seed in arguments.seeds]
    if len(rows) > 1:
        show("data-free", [float(mean) for mean in np.mean(rows, axis=0)])
    if arguments.calibration_manifest:
        row("recordings", 0, zq.CalibrationSpec(arguments.calibration_manifest, limit=REAL))
    row("noise", 0, zq.CalibrationSpec("noise"))
    begun = time.perf_counter()
    recognizer, size = dynamic(model, deployments[0])
    seconds = time.perf_counter() - begun
    show("ORT dynamic", [*heard.figures(recognizer), size / 1e6, seconds])


if __name__ == "__main__":
    main()
