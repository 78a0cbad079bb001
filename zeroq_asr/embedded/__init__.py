"""The recognisers and the clips that come with the package.

A QuartzNet and a Conformer of 1.5 million parameters each and a HuBERT of 1.8 that spell English, and a
transducer of 2.0 behind the Conformer's encoder, trained by ``examples/train_demo`` on speech that espeak-ng
made from public-domain books, and clips of sentences and voices that they never heard: enough to try
everything, no recognisers for real use.

Imported by: nothing but the package itself.
Imports: lines, errors, files, model, checkpoints.
Never imports: operators, synthesis, calibration, deployment, pipeline, measure, cli.
"""

from __future__ import annotations

import filecmp
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from zeroq_asr.checkpoints import load_model
from zeroq_asr.errors import ConfigError
from zeroq_asr.files import atomic_write_bytes
from zeroq_asr.lines import shown
from zeroq_asr.model import AsrModel, TransducerModel

_HERE = Path(__file__).parent
#: the checkpoint, held-out clips with their text, and other clips to calibrate on
MODEL, TEST, CALIBRATION, CLIPS = "model.pt", "test.jsonl", "calibration.jsonl", "clips"
#: the checkpoint with attention
CONFORMER = "conformer.pt"
#: the folder of transformers' files whose network takes waveforms and stores no statistics
HUBERT = "hubert"
#: the checkpoint of three parts, which say pieces of words
TRANSDUCER = "transducer.pt"
#: n-grams of the transducer's pieces
GRAMS = "pieces.arpa.gz"
#: what lies where, by the name that `embedded_model` takes
_MODELS = {"quartznet": MODEL, "conformer": CONFORMER, "hubert": HUBERT, "transducer": TRANSDUCER}


@dataclass(frozen=True)
class DemoFiles:
    """Where the files of the demonstration lie."""

    folder: Path

    @property
    def model(self) -> Path:
        """The checkpoint of the QuartzNet."""
        return self.folder / MODEL

    @property
    def conformer(self) -> Path:
        """The checkpoint of the Conformer."""
        return self.folder / CONFORMER

    @property
    def hubert(self) -> Path:
        """The folder of the HuBERT, as transformers saves it."""
        return self.folder / HUBERT

    @property
    def transducer(self) -> Path:
        """The checkpoint of the transducer."""
        return self.folder / TRANSDUCER

    @property
    def grams(self) -> Path:
        """An ARPA file, compressed by gzip, of n-grams whose words are the pieces of the transducer."""
        return self.folder / GRAMS

    @property
    def test(self) -> Path:
        """The manifest of the clips with text."""
        return self.folder / TEST

    @property
    def calibration(self) -> Path:
        """The manifest of the clips to calibrate on."""
        return self.folder / CALIBRATION


def embedded_files() -> DemoFiles:
    """Return the files as they lie in the package."""
    return DemoFiles(_HERE)


@overload
def embedded_model(name: Literal["quartznet", "conformer", "hubert"] = "quartznet") -> AsrModel: ...
@overload
def embedded_model(name: Literal["transducer"]) -> TransducerModel: ...
@overload
def embedded_model(name: str) -> AsrModel | TransducerModel: ...
def embedded_model(name: str = "quartznet") -> AsrModel | TransducerModel:
    """Load a recogniser that comes with the package: "quartznet", "conformer", "hubert" or "transducer".

    Raises ConfigError for another name.
    """
    if name not in _MODELS:
        known = ", ".join(_MODELS)
        raise ConfigError("embedded model", f"unknown name {shown(name)}", f"use one of {known}")
    return load_model(_HERE / _MODELS[name])


def copy_embedded(folder: str | os.PathLike[str], *, replace: bool = False) -> DemoFiles:
    """Copy checkpoints, clips and manifests to ``folder``, which is made if need be.

    Raises ConfigError, before anything is written, where another file would be lost, unless that is to be
    replaced, and when the folder cannot be written.
    """
    target = Path(folder)
    lost = other_files(target)
    if lost and not replace:
        raise ConfigError(lost[0], "is there already, and another file", "choose another folder")
    try:
        for name in (CLIPS, HUBERT):
            (target / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot be made ({error.strerror or error})"
        raise ConfigError(target, problem, "choose another folder") from None
    for name in _names():
        if not _equal(_HERE / name, target / name):
            atomic_write_bytes(target / name, (_HERE / name).read_bytes())
    return DemoFiles(target)


def other_files(folder: Path) -> list[Path]:
    """Return what ``copy_embedded`` would replace by something else."""
    return [
        folder / name
        for name in _names()
        if os.path.lexists(folder / name) and not _equal(_HERE / name, folder / name)
    ]


def _names() -> list[str]:
    inside = (f"{name}/{file.name}" for name in (HUBERT, CLIPS) for file in sorted((_HERE / name).iterdir()))
    return [MODEL, CONFORMER, TRANSDUCER, GRAMS, TEST, CALIBRATION, *inside]


def _equal(ours: Path, theirs: Path) -> bool:
    return theirs.is_file() and filecmp.cmp(ours, theirs, shallow=False)
