"""What a transducer loses in integers without data, beside recordings and noise.

    python benchmarks/transducers.py --checkpoint transducer.pt --manifest test.jsonl \
        --calibration-manifest calibration.jsonl --bits w4a8

Rows: the float network; ranges without data, a row a seed (of features and of labels alike) and their mean;
ranges of the first 16 recordings; ranges of noise.  Columns: the word error rate (%) of greedy decoding, the
words (%) that differ from the float network's own transcript, how often (%) the best token is the float
network's along its own path through frames and tokens, the bytes of the bundle, and the seconds that
quantizing took.  Without ``--manifest`` the embedded test clips are heard.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from hearing import our_warnings_alone, parser

import zeroq_asr as zq
from zeroq_asr.decoding.transducer import Hypothesis
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.measure.evaluate import count_errors
from zeroq_asr.speech.audio import AudioReader

REAL = 16
Pair = tuple[torch.Tensor, torch.Tensor]


class Heard:
    """Recordings as the float network hears them: features, texts, and its path."""

    def __init__(self, model: zq.TransducerModel, manifests: list[str], limit: int | None) -> None:
        utterances = [u for path in manifests for u in zq.read_manifest(path)[:limit]]
        frontend = zq.Frontend(model.frontend)
        with AudioReader(model.frontend.sample_rate) as read:
            self.features = [frontend.batch([read(u)]) for u in utterances]
        self.spoken = [u.text or "" for u in utterances]
        self.tokenizer = model.tokenizer
        self.path = self.hypotheses(zq.TransducerRecognizer(model))
        self.truth = self.texts(self.path)

    def hypotheses(self, recognizer: zq.TokenRecognizer) -> list[Hypothesis]:
        return [one for given in self.features for one in recognizer.hypotheses(*given)]

    def texts(self, found: list[Hypothesis]) -> list[str]:
        return [self.tokenizer.decode(one.tokens) for one in found]

    def rates(self, found: list[Hypothesis]) -> list[float]:
        texts = self.texts(found)
        return [100 * (count_errors(of, texts)[0].rate or 0) for of in (self.spoken, self.truth)]


def visits(found: Hypothesis, frames: int, durations: bool) -> Iterator[tuple[int, int]]:
    """Frames, and how many tokens were said before: where greedy decoding scored, as far as tokens tell.

    With durations only the frames of tokens are known.
    """
    said = 0
    for frame in range(frames):
        while said < len(found.tokens) and found.frames[said] == frame:
            yield frame, said
            said += 1
        if not durations:
            yield frame, said


def same_best(made: zq.QuantizedTransducer, heard: Heard) -> float:
    """Percent of the float network's scores whose best token is that of the integers."""
    decoder, programs, backend = made.prepared.decoder, made.bundle.programs, TorchBackend()
    same = count = 0
    for (features, lengths), found in zip(heard.features, heard.path, strict=True):
        given = torch.from_numpy(features), torch.from_numpy(lengths)
        encoded = [decoder.encoder.run(*given)[0], programs["encoder"].run(backend, *given)[0]]
        predicted: list[Pair] = []
        floats = [torch.zeros(1, int(s.dims[1]), 1) for s in decoder.predictor.states]
        integers = [*map(torch.from_numpy, programs["predictor"].initial_states(batch=1))]
        seen = torch.full((1, decoder.context, 1), decoder.blank_id, dtype=torch.int32)
        for label in (None, *found.tokens):
            if label is not None:
                seen = torch.cat((torch.full((1, 1, 1), label, dtype=torch.int32), seen[:, :-1]), dim=1)
            real, *floats = decoder.predictor.run(seen, *floats)
            whole, *integers = programs["predictor"].run(backend, seen, *integers)
            predicted.append((real, whole))
        for frame, said in visits(found, encoded[0].shape[2], bool(decoder.durations)):
            columns = [part[:, :, frame, None].contiguous() for part in encoded]
            (real,) = decoder.joiner.run(columns[0], predicted[said][0])
            (whole,) = programs["joiner"].run(backend, columns[1], predicted[said][1])
            best = [int(scores[0, : decoder.blank_id + 1, 0].argmax()) for scores in (real, whole)]
            same, count = same + (best[0] == best[1]), count + 1
    return 100 * same / count


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
            found = heard.hypotheses(zq.IntegerTransducer.of_folder(Path(folder) / "bundle", 1))
        values = [*heard.rates(found), same_best(made, heard), made.size / 1e6, seconds]
        show(name, values)
        return values

    print(f"{'':<28}" + "".join(f"{name:>9}" for name in ("WER", "words", "best", "MB", "s")))
    show("float", [*heard.rates(heard.path), 100.0, model.float_bytes / 1e6, 0.0])
    rows = [row(f"data-free, seed {seed}", seed, zq.CalibrationSpec()) for seed in arguments.seeds]
    if len(rows) > 1:
        show("data-free", [float(mean) for mean in np.mean(rows, axis=0)])
    if arguments.calibration_manifest:
        row("recordings", 0, zq.CalibrationSpec(arguments.calibration_manifest, limit=REAL))
    row("noise", 0, zq.CalibrationSpec("noise"))


if __name__ == "__main__":
    main()
