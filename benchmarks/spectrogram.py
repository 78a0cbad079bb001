"""Draw made speech beside a recording: the log-mels that a network would be given.

python benchmarks/spectrogram.py --recording 0000.flac --seed 0 --output docs/made-speech.jpg
"""

from __future__ import annotations

import argparse

import matplotlib as mpl
import numpy as np

import zeroq_asr as zq
from zeroq_asr.speech.audio import load_audio
from zeroq_asr.synthesis.voice import speak

RATE, MELS = 16000, 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recording", required=True)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()

    mpl.use("Agg")
    from matplotlib import pyplot

    frontend = zq.Frontend(zq.FrontendConfig(features=MELS, sample_rate=RATE))
    samples = round(arguments.seconds * RATE)
    waves = {
        "made speech": speak(arguments.seconds, RATE, arguments.seed),
        "a recording": load_audio(arguments.recording, RATE)[:samples],
    }
    figure, axes = pyplot.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
    for axis, (label, wave) in zip(axes, waves.items(), strict=True):
        mels, length = frontend(np.asarray(wave, dtype=np.float32))
        axis.imshow(
            mels[:, :length],
            origin="lower",
            aspect="auto",
            extent=(0, arguments.seconds, 0, MELS),
            vmin=-2.0,
            vmax=3.0,
            cmap="magma",
        )
        axis.set_ylabel("mel")
        axis.set_title(label, loc="left", fontsize=10)
    axes[-1].set_xlabel("seconds")
    figure.savefig(arguments.output, dpi=72)


if __name__ == "__main__":
    main()
