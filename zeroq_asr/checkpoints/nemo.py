"""NeMo's `.nemo` archives, without NeMo: a YAML configuration, weights, and tokenizer files."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from zeroq_asr.architectures import SUBSAMPLING
from zeroq_asr.checkpoints.archive import read_tar
from zeroq_asr.checkpoints.pickles import load_tensors
from zeroq_asr.checkpoints.weights import build_network, is_dense
from zeroq_asr.errors import CheckpointError, ConfigError, UnsupportedModelError
from zeroq_asr.model import AsrModel
from zeroq_asr.speech.frontend import FrontendConfig, mel_filterbank
from zeroq_asr.speech.tokenizer import Tokenizer

CONFIG_NAME = "model_config.yaml"
WEIGHTS_NAME = "model_weights.ckpt"

#: (encoder class, decoder class) → the name in ARCHITECTURES
FAMILIES = {
    ("ConvASREncoder", "ConvASRDecoder"): "conv_ctc",
    ("ConformerEncoder", "ConvASRDecoder"): "conformer_ctc",
}

#: the section of a transducer's configuration that describes its CTC head
_HYBRID = "aux_ctc"

#: our mel filters may differ by this much from those the model was trained with
FILTERBANK_TOLERANCE = 1e-4

_MAX_YAML_BYTES = 16 * 2**20
_MAX_YAML_VALUES = 200_000
#: parts of a training state that are no weights of the network
_NOT_NETWORK = ("preprocessor.", "spec_augmentation.", "loss.", "wer.", "_wer.", "decoding.")
#: parts of a hybrid that its CTC head does without
_TRANSDUCER = ("decoder.", "joint.", "ctc_loss.", "ctc_wer.")
_PREPROCESSORS = ("AudioToMelSpectrogramPreprocessor",)
#: preprocessor options that change nothing at inference
_IGNORED_OPTIONS = frozenset(
    {
        "_target_",
        "cls",
        "dither",
        "nb_augmentation_prob",
        "nb_max_freq",
        "rng",
        "stft_conv",
        "stft_exact_pad",
        "use_grads",
        "use_torchaudio",
    }
)
_SAMPLES_OPTIONS = {"n_window_size": "window_size", "n_window_stride": "window_stride"}

#: returns the content of a file that a configuration names, or None
Finder = Callable[[str], bytes | None]


@dataclass(frozen=True)
class NemoConfig:
    """What a `model_config.yaml` says, in this package's terms."""

    architecture: str
    #: the "encoder" and "decoder" sections
    config: dict[str, Any]
    frontend: FrontendConfig
    tokenizer: Tokenizer
    #: a transducer with a CTC head beside it, whose weights are called ctc_decoder; the head alone is read
    hybrid: bool = False

    def model(self, path: str | os.PathLike[str], state: Mapping[str, Any]) -> AsrModel:
        """Return the recogniser with NeMo's weights ``state``, or raise CheckpointError."""
        check_filterbank(path, self.frontend, state)
        weights = {name: value for name, value in state.items() if not name.startswith(_NOT_NETWORK)}
        if self.hybrid:
            weights = {
                name.removeprefix("ctc_"): value
                for name, value in weights.items()
                if not name.startswith(_TRANSDUCER)
            }
        return self.wrap(path, build_network(path, self.architecture, self.config, weights))

    def wrap(self, path: str | os.PathLike[str], network: torch.nn.Module) -> AsrModel:
        """Return the recogniser around a network that is already built."""
        return AsrModel(
            network=network,
            frontend=self.frontend,
            tokenizer=self.tokenizer,
            name=Path(path).stem,
            architecture=self.architecture,
            config=self.config,
            subsampling_factor=SUBSAMPLING[self.architecture](self.config),
        )


def load_nemo(path: str | os.PathLike[str]) -> AsrModel:
    """Read a `.nemo` archive, or raise CheckpointError."""
    files = read_tar(path)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if name not in files:
            raise CheckpointError(path, f"holds no {name}", "it is not a .nemo archive that NeMo saved")
    config = parse_config(path, files[CONFIG_NAME], files.get)
    weights = files.pop(WEIGHTS_NAME)
    return config.model(path, load_tensors(path, weights))


def read_config(path: str | os.PathLike[str]) -> NemoConfig:
    """Read a `model_config.yaml` from the disk; the files it refers to lie beside it."""
    return parse_config(path, _read_yaml(path), _beside(path))


def read_surroundings(path: str | os.PathLike[str]) -> tuple[FrontendConfig, Tokenizer]:
    """Read the frontend and tokenizer of a `model_config.yaml`, whatever its network."""
    root = _parse_yaml(path, _read_yaml(path))
    return _surroundings(path, root, _beside(path))


def parse_config(path: str | os.PathLike[str], text: bytes, find: Finder) -> NemoConfig:
    """Understand the YAML ``text`` of a model; ``find`` returns the files it names, or None.

    Raises CheckpointError when it is no YAML, UnsupportedModelError when it describes a model that is not
    supported.
    """
    root = _parse_yaml(path, text)
    encoder, decoder = _section(path, root, "encoder"), _ctc_decoder(path, root)
    family = _class_name(encoder), _class_name(decoder)
    if family not in FAMILIES:
        supported = ", ".join(f"{e} with {d}" for e, d in FAMILIES)
        raise UnsupportedModelError(
            path, f"{family[0]} with {family[1]} is not supported", f"supported: {supported}"
        )
    frontend, tokenizer = _surroundings(path, root, find)
    mels = encoder.get("feat_in")
    if mels != frontend.features:
        raise CheckpointError(
            path, f"encoder.feat_in is {mels!r}, the preprocessor makes {frontend.features}"
        )
    # the classes of a BPE model may be left to its tokenizer
    decoder = {**decoder, "num_classes": len(tokenizer.tokens)}
    hybrid = _HYBRID in root
    if hybrid and not decoder.get("feat_in"):
        decoder["feat_in"] = encoder.get("d_model")
    sections = {"encoder": encoder, "decoder": decoder}
    return NemoConfig(FAMILIES[family], sections, frontend, tokenizer, hybrid)


def check_filterbank(
    path: str | os.PathLike[str], frontend: FrontendConfig, state: Mapping[str, Any]
) -> None:
    """Raise CheckpointError when a checkpoint brings mel filters [1, M, F] that are not ours."""
    filters = state.get("preprocessor.featurizer.fb")
    if not isinstance(filters, torch.Tensor):
        return
    if not is_dense(filters):
        raise CheckpointError(path, "preprocessor.featurizer.fb is no dense tensor", "save it on the CPU")
    ours = mel_filterbank(frontend)
    theirs = filters.detach().to(torch.float32).numpy()
    if theirs.ndim == 3 and len(theirs) == 1:
        theirs = theirs[0]
    if theirs.shape != ours.shape:
        problem = (
            f"its mel filters have shape {list(theirs.shape)}, the configuration gives {list(ours.shape)}"
        )
        raise CheckpointError(path, f"the frontend differs: {problem}")
    difference = float(np.abs(theirs - ours).max())
    if not difference <= FILTERBANK_TOLERANCE:
        raise CheckpointError(path, f"the frontend differs: its mel filters are off by {difference:.2g}")


def _read_yaml(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(_MAX_YAML_BYTES + 1)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})", "check --config") from None


def _beside(path: str | os.PathLike[str]) -> Finder:
    """Return a finder of files in the folder of ``path``, and nowhere else."""

    def find(name: str) -> bytes | None:
        file = Path(path).parent / name
        return file.read_bytes() if Path(name).name == name and file.is_file() else None

    return find


def _surroundings(
    path: str | os.PathLike[str], root: dict[str, Any], find: Finder
) -> tuple[FrontendConfig, Tokenizer]:
    decoder = _ctc_decoder(path, root)
    try:
        frontend = _frontend(path, _section(path, root, "preprocessor"))
        return frontend, _tokenizer(path, root, decoder, find)
    except ConfigError as error:
        raise CheckpointError(path, str(error)) from None


def _parse_yaml(path: str | os.PathLike[str], text: bytes) -> dict[str, Any]:
    if len(text) > _MAX_YAML_BYTES:
        raise CheckpointError(path, "the model configuration is too large to be one")
    try:
        root = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(path, f"the model configuration is not YAML ({reason})") from None
    if not isinstance(root, dict):
        raise CheckpointError(path, "the model configuration is not a mapping")
    # A training configuration holds the model's one level down.
    return _resolve(path, root.get("model", root))


def _resolve(path: str | os.PathLike[str], root: Any) -> dict[str, Any]:
    """Return ``root`` with whole-string references ``${a.b}`` and ``${model.a.b}`` replaced."""
    if not isinstance(root, dict):
        raise CheckpointError(path, "the model configuration is not a mapping")

    def look_up(reference: str) -> Any:
        value: Any = root
        for key in reference.removeprefix("model.").split("."):
            if not isinstance(value, dict) or key not in value:
                raise CheckpointError(
                    path, f"the model configuration refers to {reference!r}, which is missing"
                )
            value = value[key]
        return value

    visited = itertools.count(1)

    def walk(value: Any, depth: int) -> Any:
        # aliases share what they name, so a small text may stand for a tree without end
        if next(visited) > _MAX_YAML_VALUES:
            raise CheckpointError(path, "the model configuration unfolds into too many values to be one")
        if depth > 100:
            raise CheckpointError(path, "the model configuration is nested too deeply or refers to itself")
        if isinstance(value, dict):
            return {key: walk(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, depth + 1) for item in value]
        if isinstance(value, str) and value.startswith("${") and value.endswith("}") and ":" not in value:
            return walk(look_up(value[2:-1]), depth + 1)
        return value

    # Only what is read below: elsewhere, references may lead to training data that is not there.
    sections = ("encoder", "decoder", "preprocessor", "labels", "tokenizer", _HYBRID)
    return {key: walk(root[key], 0) for key in sections if key in root}


def _section(path: str | os.PathLike[str], root: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a section with its options at the top level, wherever that version of NeMo put them."""
    section = root.get(name)
    if not isinstance(section, dict):
        raise CheckpointError(path, f"the model configuration has no {name} section")
    nested = section.get("params")
    return {**section, **nested} if isinstance(nested, dict) else section


def _ctc_decoder(path: str | os.PathLike[str], root: dict[str, Any]) -> dict[str, Any]:
    """Return the decoder's section; of a hybrid that of its CTC head."""
    if _HYBRID not in root:
        return _section(path, root, "decoder")
    head = _section(path, root, _HYBRID)
    if not isinstance(head.get("decoder"), dict):
        raise CheckpointError(path, f"the model configuration has no {_HYBRID}.decoder section")
    return _section(path, head, "decoder")


def _class_name(section: dict[str, Any]) -> str:
    return str(section.get("_target_", section.get("cls", "an unnamed class"))).rpartition(".")[2]


def _frontend(path: str | os.PathLike[str], section: dict[str, Any]) -> FrontendConfig:
    if _class_name(section) not in _PREPROCESSORS:
        raise CheckpointError(
            path, f"{_class_name(section)} is not supported", f"supported: {', '.join(_PREPROCESSORS)}"
        )
    known = {field.name for field in fields(FrontendConfig)}
    options = {key: value for key, value in section.items() if key in known}
    for key, seconds in _SAMPLES_OPTIONS.items():
        if section.get(key) is not None:
            rate = options.get("sample_rate", 16000)
            if not all(isinstance(v, int | float) and v > 0 for v in (section[key], rate)):
                raise CheckpointError(
                    path, f"{key} must be a positive number of samples, got {section[key]!r}"
                )
            options[seconds] = section[key] / rate
    if options.get("normalize") in ("NA", "None", "none", ""):
        options["normalize"] = None
    read = known | _IGNORED_OPTIONS | _SAMPLES_OPTIONS.keys() | {"params"}
    unknown = sorted(str(key) for key in section if key not in read)
    if unknown:
        raise CheckpointError(path, f"unknown preprocessor options: {', '.join(unknown)}")
    return FrontendConfig.from_dict(options)


def _tokenizer(
    path: str | os.PathLike[str],
    root: dict[str, Any],
    decoder: dict[str, Any],
    find: Finder,
) -> Tokenizer:
    """Return the tokenizer of a model: its pieces, or its characters."""
    section = root.get("tokenizer")
    vocabulary = decoder.get("vocabulary") or root.get("labels")
    tokens = tuple(str(token) for token in vocabulary) if isinstance(vocabulary, list) else ()
    if not isinstance(section, dict):
        tokenizer = Tokenizer(tokens)
    elif section.get("type") == "wpe":
        tokenizer = Tokenizer(tokens, "wordpiece")
    else:
        name = str(section.get("model_path") or "tokenizer.model").removeprefix("nemo:")
        model = find(name)
        if model is not None:
            tokenizer = Tokenizer.from_sentencepiece(model)
        elif tokens:
            tokenizer = Tokenizer(tokens, "sentencepiece")
        else:
            raise CheckpointError(path, f"the tokenizer {name} is missing and there is no vocabulary")
    classes = decoder.get("num_classes")
    if isinstance(classes, int) and classes > 0 and classes != len(tokenizer.tokens):
        raise CheckpointError(
            path, f"the decoder has {classes} classes, the tokenizer {len(tokenizer.tokens)} tokens"
        )
    return tokenizer
