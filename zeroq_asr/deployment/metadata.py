"""What a file says of itself beside its graph: one JSON object under one key of the ONNX metadata.

The program, the frontend and the tokens are read back from it.  Every field is checked as it is read, whoever
reads it: there are no others, each has its type and its range, and a hash covers them all.  A float baseline
(``deployment.float_onnx``) says what surrounds it, and no more.
"""

from __future__ import annotations

import base64
import bz2
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from zeroq_asr.config import DIALECTS, CalibrationSpec, LabelSpec, QuantSpec, SynthesisSpec, TrainingSpec
from zeroq_asr.config.choices import RUNTIMES
from zeroq_asr.config.plan_row import PlanRow
from zeroq_asr.errors import ConfigError, ExportError, VerificationError
from zeroq_asr.integer.program import canonical_json
from zeroq_asr.lines import shown
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

#: what a bundle's folder says of its files
BUNDLE_FILE = "bundle.json"
#: key of our own JSON object in a file's metadata
METADATA_KEY = "zeroq_asr"
#: version of that object's layout
METADATA_VERSION = 2
#: that of files that pack weights: what takes most of it is one compressed text
COMPACT_VERSION = 3
_VERSIONS = (METADATA_VERSION, COMPACT_VERSION)
#: key of that text, and the fields in it
_COMPRESSED, _WITHIN = "compressed", ("encodings", "program")
#: most bytes of it, once it is read
_MOST_TEXT = 1 << 26
#: what a float baseline says that it is
FLOAT = "float"

#: what a target promises about the products that the fused kernels form
TARGET_BOUNDS = {
    "x86-any": "signed weights of which two neighbours of one sign add up to at most 2^15 / 255 = 128, so no "
    "int16 pair saturates on any x86, or unsigned ones; depthwise kernels widen both factors first",
    "x86-vnni": "signed weights at full range: exact only where the CPU multiplies u8 x s8 into int32 (VNNI)",
    "arm": "signed weights at full range: exact where the CPU multiplies u8 x s8 into int32 (ARM)",
}

_REMEDY = "do not trust this file; quantize the checkpoint again"
#: longest name of a model, and most seconds and frames of input that stand for one encoded
_NAME, _SECONDS, _FACTOR = 1000, 1e6, 1 << 20
#: most durations of a transducer, and the longest of them in encoded frames
_MOST_DURATIONS, _LONGEST = 1000, 10_000
#: field of what is of a transducer alone
_DECODING = "decoding"
#: field of files that take audio alone
_FRONTEND = "with_frontend"
#: field of files that other runtimes run alone
_RUNTIME_PORTS = "runtime_ports"
#: sections of a recipe, and what reads them
_RECIPE: Mapping[str, Callable[[Any], object]] = {
    "quantization": QuantSpec.from_dict,
    "calibration": CalibrationSpec.from_dict,
    "synthesis": SynthesisSpec.from_dict,
    "labels": LabelSpec.from_dict,
    "training": TrainingSpec.from_dict,
    "search": PlanRow.from_dict,
}


@dataclass(frozen=True)
class Decoding:
    """How a transducer is decoded greedily; what the fields mean says ``decoding.transducer``."""

    #: encoded frames that each score behind the blank's stands for; none of a transducer without durations
    durations: tuple[int, ...]
    #: most labels that one encoded frame gives
    max_symbols: int

    def __post_init__(self) -> None:
        given = self.durations
        fits = isinstance(given, tuple) and len(given) <= _MOST_DURATIONS
        fits = fits and all(_is_whole(one) and 0 <= one <= _LONGEST for one in given)
        _require(fits, "durations", given, f"a list of whole numbers from 0 to {_LONGEST}")
        fits = _is_whole(self.max_symbols) and 1 <= self.max_symbols <= _LONGEST
        _require(fits, "max_symbols", self.max_symbols, f"a whole number from 1 to {_LONGEST}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"durations": list(self.durations), "max_symbols": self.max_symbols}

    @classmethod
    def from_dict(cls, data: Any) -> Decoding:
        """Rebuild what ``to_dict`` wrote; ConfigError, naming the field, for anything else."""
        names = {"durations", "max_symbols"}
        fits = isinstance(data, dict) and data.keys() == names and isinstance(data["durations"], list)
        _require(fits, _DECODING, data, "an object of durations, a list, and max_symbols")
        return cls(tuple(data["durations"]), data["max_symbols"])


@dataclass(frozen=True)
class RuntimePorts:
    """Whose ports a transducer's files have, in place of its programs' own (``deployment.runtime_ports``)."""

    #: who runs them
    runtime: str
    #: of the predictor's LSTM
    layers: int
    units: int

    def __post_init__(self) -> None:
        known = self.runtime in RUNTIMES
        _require(known, "runtime_ports.runtime", self.runtime, f"one of {', '.join(RUNTIMES)}")
        for name in ("layers", "units"):
            value = getattr(self, name)
            fits = _is_whole(value) and 1 <= value <= _FACTOR
            _require(fits, f"runtime_ports.{name}", value, f"a whole number from 1 to {_FACTOR}")

    @classmethod
    def from_dict(cls, data: Any) -> RuntimePorts:
        """Rebuild what ``asdict`` made; ConfigError, naming the field, for anything else."""
        names = [one.name for one in fields(cls)]
        fits = isinstance(data, dict) and data.keys() == {*names}
        _require(fits, _RUNTIME_PORTS, data, f"an object of {', '.join(names)}")
        return cls(**data)


@dataclass(frozen=True)
class Deployment:
    """All of a model that is not its programs: what a runtime needs beside the integers.

    Raises ConfigError for a field that makes no sense.
    """

    name: str
    frontend: FrontendConfig
    tokenizer: Tokenizer
    max_seconds: float
    subsampling_factor: int
    #: the specifications it was made by, for the record
    recipe: dict[str, Any] = field(default_factory=dict)
    #: of a transducer; None of a CTC network
    decoding: Decoding | None = None
    #: whether the frontend is in the file, which then takes audio (``deployment.frontend_graph``)
    with_frontend: bool = False
    #: of a transducer's files that another runtime runs
    runtime_ports: RuntimePorts | None = None

    def __post_init__(self) -> None:
        named = isinstance(self.name, str) and 0 < len(self.name) <= _NAME and self.name.isprintable()
        _require(named, "name", self.name, f"a name of 1 to {_NAME} printable characters")
        seconds = _is_number(self.max_seconds) and 0 < self.max_seconds <= _SECONDS
        _require(seconds, "max_seconds", self.max_seconds, f"a number above 0, at most {_SECONDS:g}")
        factor = _is_whole(self.subsampling_factor) and 1 <= self.subsampling_factor <= _FACTOR
        _require(factor, "subsampling_factor", self.subsampling_factor, f"a whole number from 1 to {_FACTOR}")
        _require(isinstance(self.recipe, dict), "recipe", self.recipe, "an object")
        _require(isinstance(self.with_frontend, bool), _FRONTEND, self.with_frontend, "true or false")
        alone = self.runtime_ports is None or (self.decoding is not None and not self.with_frontend)
        _require(alone, _RUNTIME_PORTS, self.name, "of a transducer whose files take features")

    @property
    def max_frames(self) -> int:
        """Frames of the longest audio that is promised."""
        return math.ceil(self.max_seconds * self.frontend.frames_per_second) + 1

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; those of transducers, and of frontends, where there is one."""
        told: dict[str, Any] = {} if self.decoding is None else {_DECODING: self.decoding.to_dict()}
        told |= {_FRONTEND: True} if self.with_frontend else {}
        told |= {} if self.runtime_ports is None else {_RUNTIME_PORTS: asdict(self.runtime_ports)}
        return {
            **told,
            "name": self.name,
            "frontend": self.frontend.to_dict(),
            "tokenizer": self.tokenizer.to_dict(),
            "max_seconds": self.max_seconds,
            "subsampling_factor": self.subsampling_factor,
            "recipe": self.recipe,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Deployment:
        """Rebuild what ``to_dict`` wrote; ConfigError, naming the field, for anything else."""
        missing = sorted(_SURROUNDINGS - data.keys())
        if missing:
            raise ConfigError("metadata", f"has no {missing[0]}", "a file says what surrounds its program")
        _check_recipe(data["recipe"])
        return cls(
            name=data["name"],
            frontend=FrontendConfig.from_dict(data["frontend"]),
            tokenizer=Tokenizer.from_dict(data["tokenizer"]),
            max_seconds=data["max_seconds"],
            subsampling_factor=data["subsampling_factor"],
            recipe=data["recipe"],
            decoding=Decoding.from_dict(data[_DECODING]) if _DECODING in data else None,
            with_frontend=data.get(_FRONTEND, False),
            runtime_ports=RuntimePorts.from_dict(data[_RUNTIME_PORTS]) if _RUNTIME_PORTS in data else None,
        )


def require_own_ports(where: str | os.PathLike[str], deployment: Deployment) -> None:
    """Raise ExportError for files that have another runtime's ports, and so are run by that alone."""
    if deployment.runtime_ports is not None:
        problem = f"was written for {deployment.runtime_ports.runtime}, which alone runs it"
        raise ExportError(where, problem, "name the bundle that it was made of")


_SURROUNDINGS = frozenset(("name", "frontend", "tokenizer", "max_seconds", "subsampling_factor", "recipe"))


def _check_recipe(recipe: object) -> None:
    """Require the specifications that a file was made by, each as it is read anywhere else."""
    _require(isinstance(recipe, dict), "recipe", recipe, "an object")
    assert isinstance(recipe, dict)
    for name, section in recipe.items():
        if name == "plan":
            text = (
                isinstance(section, dict) and section.keys() == {"yaml"} and isinstance(section["yaml"], str)
            )
            _require(text, "recipe.plan", section, "an object of a text, yaml")
            continue
        _require(name in _RECIPE, "recipe", name, f"made of {', '.join((*_RECIPE, 'plan'))}")
        try:
            _RECIPE[name](section)
        except TypeError:
            raise ConfigError("metadata", f"recipe.{name} cannot be read, found {shown(section)}") from None


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _require(holds: bool, name: str, value: object, must_be: str) -> None:
    if not holds:
        raise ConfigError("metadata", f"{name} must be {must_be}, found {shown(value)}")


# -- the object in a file --------------------------------------------------------------------------

_SHA256 = re.compile(r"[0-9a-f]{64}")


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and bool(_SHA256.fullmatch(value))


def _are_encodings(value: object) -> bool:
    """Constant → the initializer that stores it, and how."""
    return isinstance(value, dict) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in value.values()
    )


def _is_version(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 100 and value.isprintable()


#: field of a quantized file, beside what surrounds its program → what it must be, and the test
_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "format": (" or ".join(map(str, _VERSIONS)), lambda v: v in _VERSIONS),
    "version": ("a version", _is_version),
    "dialect": (f"one of {', '.join(DIALECTS)}", lambda v: isinstance(v, str) and v in DIALECTS),
    "target": (f"one of {', '.join(TARGET_BOUNDS)}", lambda v: isinstance(v, str) and v in TARGET_BOUNDS),
    "part": ("the name of a part", lambda v: isinstance(v, str) and v.isidentifier() and len(v) <= 100),
    "program": ("an object", lambda v: isinstance(v, dict)),
    "encodings": ("an object of pairs of texts", _are_encodings),
    "program_sha256": ("64 hexadecimal digits", _is_digest),
    "metadata_sha256": ("64 hexadecimal digits", _is_digest),
}
#: those that a file which packs weights has besides
_COMPACT_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "onnxruntime": ("a release of ONNX Runtime", _is_version),
}


def metadata_digest(own: Mapping[str, Any]) -> str:
    """SHA-256 of our JSON object without this digest itself."""
    rest = {k: v for k, v in own.items() if k != "metadata_sha256"}
    return hashlib.sha256(canonical_json(json.loads(json.dumps(rest)))).hexdigest()


def own_metadata(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return this package's part of a file's metadata, of a quantized file or of a float one, {} without.

    Raises VerificationError, naming the field, where it is damaged.
    """
    if METADATA_KEY not in metadata:
        return {}
    own = _object(path, metadata[METADATA_KEY])
    if own.get("dialect") == FLOAT:
        _surroundings(path, own, {"dialect", "version"})
        return own
    check_own(path, own)
    return own


def read_own(path: str | os.PathLike[str], text: str) -> dict[str, Any]:
    """Return a quantized file's JSON object; VerificationError, naming the field, where it is damaged."""
    own = _object(path, text)
    check_own(path, own)
    return own


def _object(path: str | os.PathLike[str], text: str) -> dict[str, Any]:
    try:
        own = json.loads(text, parse_constant=_no_number)
        # text that is no Unicode has no hash
        text.encode()
        canonical_json(own)
    except (ValueError, RecursionError):
        raise VerificationError(path, "its metadata is not JSON, or damaged", _REMEDY) from None
    if not isinstance(own, dict):
        raise VerificationError(path, f"its metadata is damaged: {type(own).__name__}, no object", _REMEDY)
    return _expanded(path, own) if _COMPRESSED in own else own


def own_text(own: Mapping[str, Any]) -> str:
    """Return the text that stands in a file for its JSON object.

    Where weights are packed the program would take as many bytes as they, so it is compressed: by bzip2, of
    which there is one spelling, so that ``verify`` can compare bytes.
    """
    if own["format"] != COMPACT_VERSION:
        return canonical_json(own).decode()
    within = canonical_json({key: own[key] for key in _WITHIN})
    rest = {key: value for key, value in own.items() if key not in _WITHIN}
    return canonical_json({**rest, _COMPRESSED: base64.b85encode(bz2.compress(within)).decode()}).decode()


def _expanded(path: str | os.PathLike[str], own: dict[str, Any]) -> dict[str, Any]:
    """The object of a file that packs weights, with what is compressed in it in its place."""
    try:
        reader = bz2.BZ2Decompressor()
        text = reader.decompress(base64.b85decode(own.pop(_COMPRESSED)), _MOST_TEXT)
        # no more than one text, and not a longer one than anybody writes
        whole = reader.eof and not reader.unused_data
        within = json.loads(text, parse_constant=_no_number) if whole else None
        canonical_json(within)
    except (ValueError, TypeError, OSError, EOFError, RecursionError):
        within = None
    if not isinstance(within, dict) or within.keys() != {*_WITHIN} or own.keys() & within.keys():
        raise VerificationError(path, "its metadata is damaged: its program cannot be read", _REMEDY)
    return own | within


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def check_own(path: str | os.PathLike[str], own: Mapping[str, Any]) -> None:
    """Raise VerificationError, naming the field, unless an object is that of a quantized file."""
    found = own.get("format")
    if found not in _VERSIONS or isinstance(found, bool):
        newer = isinstance(found, int) and found > COMPACT_VERSION
        remedy = "upgrade zeroq-asr" if newer else "quantize the checkpoint again"
        expected = " or ".join(map(str, _VERSIONS))
        problem = f"its metadata is damaged or of format {shown(found)}, expected {expected}"
        raise VerificationError(path, problem, remedy)
    if own.get("metadata_sha256") != metadata_digest(own):
        raise VerificationError(path, "the metadata was changed: its hash does not match", _REMEDY)
    fields = {**_FIELDS, **(_COMPACT_FIELDS if found == COMPACT_VERSION else {})}
    for name, (must_be, holds) in fields.items():
        if name not in own or not holds(own[name]):
            problem = f"its metadata is damaged: {name} must be {must_be}, found {shown(own.get(name))}"
            raise VerificationError(path, problem, _REMEDY)
    _surroundings(path, own, fields.keys())


def _surroundings(path: str | os.PathLike[str], own: Mapping[str, Any], beside: Any) -> None:
    """Require what surrounds a program, those other fields, and no more."""
    unknown = sorted(own.keys() - _SURROUNDINGS - {_DECODING, _FRONTEND, _RUNTIME_PORTS} - set(beside))
    if unknown:
        raise VerificationError(path, f"its metadata is damaged: unknown field {shown(unknown[0])}", _REMEDY)
    try:
        Deployment.from_dict(own)
    except ConfigError as error:
        raise VerificationError(path, f"its metadata is damaged: {error}", _REMEDY) from None
