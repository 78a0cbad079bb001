"""How fast synthesis runs, how well its statistics match, and how its ranges compare with speech.

    python benchmarks/synthesis.py --data FOLDER [--model quartznet15x5.nemo] [--variants paper,default]

FOLDER holds ``models/`` and, for the last columns, ``speech/librispeech-train-clean-100/``.
Prints one row a variant:

- ``s/step`` and ``seconds``: wall time of an Adam step (median) and of the whole synthesis;
- ``KL before``, ``KL after``: summed over layers, channel mean, nats, KL(stored || batch);
- ``mean off``: |batch mean - stored mean| in stored deviations, mean over layers;
- ``std``: batch deviation over stored deviation, median over layers;
- ``range 10/50/90%``: max |x| at the input of each convolution and matrix over the same for real
  speech, quantiles over layers: 1.0 is what calibration needs, below it values are clipped;
- ``peak GB``: largest resident size of the process so far.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from zeroq_asr.checkpoints import load_checkpoint
from zeroq_asr.config import SynthesisSpec
from zeroq_asr.model import AsrModel
from zeroq_asr.speech.audio import load_audio
from zeroq_asr.speech.frontend import Frontend
from zeroq_asr.speech.manifest import read_manifest
from zeroq_asr.synthesis.synthesize import synthesize

VARIANTS: dict[str, SynthesisSpec] = {
    "noise": SynthesisSpec.preset("default", iterations=0, init="normal"),
    "default": SynthesisSpec.preset("default"),
    "fast": SynthesisSpec.preset("fast"),
    "paper": SynthesisSpec.preset("paper"),
    "paper-10": SynthesisSpec.preset("paper", iterations=10),
    "kl": SynthesisSpec.preset("default", objective="kl"),
    "jeffreys": SynthesisSpec.preset("default", objective="jeffreys"),
    "moments": SynthesisSpec.preset("default", objective="moments"),
    "constant": SynthesisSpec.preset("default", schedule="constant"),
    "lr 0.1": SynthesisSpec.preset("default", learning_rate=0.1),
    "lr 0.3": SynthesisSpec.preset("default", learning_rate=0.3),
    "normal": SynthesisSpec.preset("default", init="normal"),
    "standardize": SynthesisSpec.preset("default", standardize=True),
    "20 steps": SynthesisSpec.preset("default", iterations=20),
    "60 steps": SynthesisSpec.preset("default", iterations=60),
    # what the default was before
    "60 of Adam": SynthesisSpec.preset("default", iterations=60, learning_rate=0.1, beta1=0.9, beta2=0.999),
    "30 of Adam": SynthesisSpec.preset("default", beta1=0.9, beta2=0.999),
    "short": SynthesisSpec.preset("default", iterations=20, learning_rate=0.3, beta1=0.2, beta2=0.5),
    "signs": SynthesisSpec.preset("default", iterations=20, learning_rate=0.3, beta1=0.0, beta2=0.0),
    "4 x 512": SynthesisSpec.preset("default", batch=4, frames=512),
}


class Ranges(TorchFunctionMode):
    """The largest magnitude that the input of each convolution and matrix takes, call by call."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.largest: dict[int, float] = {}
        self.calls = 0

    @torch.inference_mode()
    def observe(self, features: np.ndarray, lengths: np.ndarray) -> None:
        self.calls = 0
        with self:
            self.network(torch.from_numpy(features), torch.from_numpy(lengths))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (functional.conv1d, functional.conv2d, functional.linear):
            self.largest[self.calls] = max(self.largest.get(self.calls, 0.0), float(args[0].abs().max()))
            self.calls += 1
        return func(*args, **(kwargs or {}))


def real_ranges(model: AsrModel, folder: Path, limit: int) -> dict[int, float]:
    """Return the ranges of the first ``limit`` utterances, each alone."""
    frontend, ranges = Frontend(model.frontend), Ranges(model.network)
    for utterance in read_manifest(folder)[:limit]:
        ranges.observe(*frontend.batch([load_audio(utterance.audio_path, model.frontend.sample_rate)]))
    return ranges.largest


def run(model: AsrModel, name: str, spec: SynthesisSpec, real: dict[int, float]) -> str:
    """Synthesize one variant and return its row."""
    times: list[float] = []
    result = synthesize(model, spec, lambda *_: times.append(time.perf_counter()))
    steps = [after - before for before, after in itertools.pairwise(times)]
    account = result.account
    cells = [
        f"{name:12}",
        f"{spec.batch} x {spec.frames}".rjust(8),
        f"{len(result.losses) - 1:5d}",
        f"{statistics.median(steps) if steps else 0:6.2f}",
        f"{times[-1] - times[0]:7.1f}",
        f"{sum(layer.kl_before for layer in account):9.3g}",
        f"{sum(layer.kl_after for layer in account):8.3g}",
        f"{statistics.mean(layer.mean_mismatch for layer in account):8.3f}",
        f"{statistics.median(layer.std_ratio for layer in account):5.2f}",
    ]
    if real:
        ranges = Ranges(model.network)
        ranges.observe(result.features, result.lengths)
        ratios = [ranges.largest[layer] / real[layer] for layer in real if real[layer] > 0]
        cells.append(" ".join(f"{q:4.2f}" for q in np.quantile(ratios, (0.1, 0.5, 0.9))))
    else:
        cells.append("    -    ")
    cells.append(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:6.2f}")
    return "  ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="quartznet15x5.nemo")
    parser.add_argument("--variants", default="noise,default,fast", help=f"of {', '.join(VARIANTS)}, or all")
    parser.add_argument("--utterances", type=int, default=16, help="real speech to compare ranges with")
    options = parser.parse_args()
    model = load_checkpoint(options.data / "models" / options.model)
    speech = options.data / "speech" / "librispeech-train-clean-100"
    real = real_ranges(model, speech, options.utterances) if speech.is_dir() else {}
    print(f"{options.model}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(
        "variant       B x T     steps  s/step  seconds  KL before  KL after  mean off  std"
        "  range 10/50/90%  peak GB"
    )
    names = VARIANTS if options.variants == "all" else options.variants.split(",")
    for name in names:
        print(run(model, name, VARIANTS[name], real), flush=True)


if __name__ == "__main__":
    main()
