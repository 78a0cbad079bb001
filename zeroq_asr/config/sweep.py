"""The file of a sweep: what is combined with what, as YAML.

    models:
    - stt_en_quartznet15x5.nemo
    - path: mine.pt
      loader: mine.reading:load
    bits: [8, w4a8]
    seeds: [0, 1, 2]
    calibration: [synthetic, speech]
    manifests: [test-other/manifest.jsonl]
    set: {iterations: 60}
    dialect: fused

``seeds``, ``calibration``, ``set`` and ``dialect`` may be left out.  A single value stands for a list of one.
Names of files are relative to the folder of the file.  What is done with it is the matter of
``zeroq_asr.measure.sweep``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeroq_asr.config.calibration import AUTO, MADE, CalibrationSpec
from zeroq_asr.config.checks import choice, text, whole
from zeroq_asr.config.choices import DIALECTS
from zeroq_asr.config.quantization import QuantSpec
from zeroq_asr.config.settings import refuse_unknown, with_fields
from zeroq_asr.config.synthesis import SynthesisSpec
from zeroq_asr.config.training import TrainingSpec
from zeroq_asr.errors import ConfigError
from zeroq_asr.files import read_file
from zeroq_asr.lines import shown

#: keys of the file, and of one of its models
KEYS = ("models", "bits", "seeds", "calibration", "manifests", "set", "dialect")
MODEL_KEYS = ("path", "loader", "config", "language")
#: those that must be there
_NEEDED = ("models", "bits", "manifests")
#: fields that a key of the file says itself
_SAID = {"seed": "seeds", "source": "calibration", "weight_bits": "bits", "activation_bits": "bits"}
#: entries of one list, which is far more than anybody waits for
_MOST = 1000


@dataclass(frozen=True)
class SweepModel:
    """A checkpoint, and how it is read: as ``load_checkpoint`` takes it."""

    path: str
    loader: str | None = None
    config: str | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if name == "path" or value is not None:
                text("SweepModel", name, value)


@dataclass(frozen=True)
class SweepSpec:
    """Every combination of models, formats, sources of ranges, seeds and lists of recordings."""

    models: tuple[SweepModel, ...]
    #: as ``QuantSpec.parse_bits`` takes them: "8", "w4a8", the path of a plan's file
    bits: tuple[str, ...]
    manifests: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    #: as ``CalibrationSpec.source``
    calibration: tuple[str, ...] = (AUTO,)
    #: other fields of QuantSpec, SynthesisSpec, CalibrationSpec and TrainingSpec, by name
    settings: tuple[tuple[str, Any], ...] = ()
    dialect: str = DIALECTS[0]

    def __post_init__(self) -> None:
        where = "SweepSpec"
        for name in ("models", "bits", "manifests", "seeds", "calibration"):
            found = getattr(self, name)
            if not 1 <= len(found) <= _MOST:
                raise ConfigError(where, f"{name} must have 1 to {_MOST} entries, got {len(found)}")
            twice = [one for i, one in enumerate(found) if one in found[:i]]
            if twice:
                raise ConfigError(where, f"{name} has {shown(twice[0])} twice", "keep one")
        for seed in self.seeds:
            whole(where, "a seed", seed, 0, 2**63 - 1)
        choice(where, "dialect", self.dialect, DIALECTS)
        for name, _ in self.settings:
            if name in _SAID:
                raise ConfigError(where, f"{name} is not set by set", f"say it by {_SAID[name]}")
        for bits in self.bits:
            for source in self.calibration:
                self.specs(bits, source, self.seeds[0])

    def specs(
        self, bits: str, source: str, seed: int
    ) -> tuple[QuantSpec, SynthesisSpec, CalibrationSpec, TrainingSpec]:
        """Return how a combination is quantized; ConfigError where that makes no sense."""
        synthesis = SynthesisSpec.preset("default", seed=seed)
        given = (QuantSpec.parse_bits(bits), synthesis, CalibrationSpec(source), TrainingSpec())
        quant, synthesis, calibration, training = with_fields("set", dict(self.settings), *given)
        return quant, synthesis, calibration, training

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**dataclasses.asdict(self), "settings": dict(self.settings)}


def read_sweep(path: str | os.PathLike[str]) -> SweepSpec:
    """Return the sweep that a YAML file describes.

    Raises ConfigError, naming the file, for what is no such file, an unknown key, or a value that makes no
    sense.
    """
    from zeroq_asr.config.yaml_text import (  # not every command waits for a parser of YAML
        MAX_BYTES,
        read_yaml,
    )

    where, folder = os.fspath(path), Path(path).parent
    data = read_yaml(read_file(path, ConfigError, MAX_BYTES), where, ConfigError)
    if not isinstance(data, dict):
        raise ConfigError(where, f"a sweep is a mapping of {', '.join(KEYS)}, got {shown(data)}")
    refuse_unknown(where, "a key of a sweep", data, KEYS)
    missing = [key for key in _NEEDED if data.get(key) is None]
    if missing:
        raise ConfigError(where, f"has no {' and no '.join(missing)}", f"a sweep needs {', '.join(_NEEDED)}")
    settings = data.get("set") or {}
    if not isinstance(settings, dict):
        raise ConfigError(where, f"set must be a mapping of fields, got {shown(settings)}")
    fields = tuple(dict.fromkeys(f.name for s in _SPECS for f in dataclasses.fields(s)))
    refuse_unknown(where, "a field that set can change", settings, fields)
    seeds: Any = _listed(data, "seeds", [0])
    given: dict[str, Any] = {
        "models": tuple(_model(where, one, folder) for one in _listed(data, "models")),
        "bits": tuple(_bits(where, one, folder) for one in _listed(data, "bits")),
        "manifests": tuple(_path(where, "manifests", one, folder) for one in _listed(data, "manifests")),
        "seeds": tuple(seeds),
        "calibration": tuple(_source(where, one, folder) for one in _listed(data, "calibration", [AUTO])),
        "settings": tuple(settings.items()),
        "dialect": data.get("dialect", DIALECTS[0]),
    }
    try:
        return SweepSpec(**given)
    except ConfigError as error:
        inner = "" if error.where == "SweepSpec" else f"{error.where}: "
        raise ConfigError(where, f"{inner}{error.problem}", error.remedy) from None


_SPECS = (QuantSpec, SynthesisSpec, CalibrationSpec, TrainingSpec)


def _listed(data: Mapping[str, Any], key: str, default: list[Any] | None = None) -> list[Any]:
    found = data.get(key)
    if found is None:
        return default or []
    return found if isinstance(found, list) else [found]


def _model(where: str, entry: object, folder: Path) -> SweepModel:
    if not isinstance(entry, dict):
        return SweepModel(_path(where, "models", entry, folder))
    refuse_unknown(where, "a key of a model", entry, MODEL_KEYS)
    if "path" not in entry:
        raise ConfigError(where, f"a model has no path, got {shown(entry)}", "add path: FILE")
    found = {key: _text(where, key, value) for key, value in entry.items()}
    for key in ("path", "config"):
        if key in found:
            found[key] = _path(where, key, found[key], folder)
    return SweepModel(**found)


def _bits(where: str, entry: object, folder: Path) -> str:
    if isinstance(entry, int) and not isinstance(entry, bool):
        return str(entry)
    bits = _text(where, "bits", entry)
    return _path(where, "bits", bits, folder) if bits.lower().endswith((".yaml", ".yml")) else bits.lower()


def _source(where: str, entry: object, folder: Path) -> str:
    source = _text(where, "calibration", entry)
    return source if source in MADE else _path(where, "calibration", source, folder)


def _path(where: str, key: str, entry: object, folder: Path) -> str:
    """Return a name as seen from here; of a model it may be one that is no file, OWNER/NAME."""
    name = _text(where, key, entry)
    beside = os.path.join(folder, name)
    return name if key in ("models", "path") and not os.path.exists(beside) else beside


def _text(where: str, key: str, entry: object) -> str:
    text(where, f"an entry of {key}", entry)
    return str(entry)
