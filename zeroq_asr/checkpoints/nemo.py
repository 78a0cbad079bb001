"""NeMo's `.nemo` archives and folders, without NeMo: a YAML configuration, weights, and tokenizer files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zeroq_asr.architectures import SUBSAMPLING
from zeroq_asr.architectures.options import Options, UnsupportedOptionError
from zeroq_asr.checkpoints.archive import Files, open_folder, open_tar
from zeroq_asr.checkpoints.nemo_surroundings import class_name, read_frontend, read_tokenizer
from zeroq_asr.checkpoints.nemo_yaml import HYBRID, MAX_BYTES, read_sections
from zeroq_asr.checkpoints.pickles import load_tensors
from zeroq_asr.checkpoints.weights import empty_network, filled, is_dense, unwrapped
from zeroq_asr.errors import CheckpointError, ConfigError, UnsupportedModelError, warn
from zeroq_asr.files import read_file
from zeroq_asr.lines import shown
from zeroq_asr.model import AsrModel
from zeroq_asr.speech.frontend import FrontendConfig, mel_filterbank
from zeroq_asr.speech.tokenizer import Tokenizer

CONFIG_NAME = "model_config.yaml"
WEIGHTS_NAME = "model_weights.ckpt"
#: how the files of such names end, where they have another
_YAML, _WEIGHTS = (".yaml", ".yml"), (".ckpt", ".pt")

#: (encoder class, decoder class) → the name in ARCHITECTURES
FAMILIES = {
    ("ConvASREncoder", "ConvASRDecoder"): "conv_ctc",
    ("ConformerEncoder", "ConvASRDecoder"): "conformer_ctc",
}

#: our mel filters may differ by this much from those the model was trained with
FILTERBANK_TOLERANCE = 1e-4

#: parts of a training state that are no weights of the network
_NOT_NETWORK = ("preprocessor.", "spec_augmentation.", "loss.", "wer.", "_wer.", "decoding.")
#: parts of a hybrid that its CTC head does without
_TRANSDUCER = ("decoder.", "joint.", "ctc_loss.", "ctc_wer.")


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

    def model(self, path: str | os.PathLike[str], state: dict[str, Any]) -> AsrModel:
        """Return the recogniser with NeMo's weights ``state``, which is used up, or raise CheckpointError."""
        network = empty_network(path, self.architecture, self.config)
        ours = list(network.state_dict())
        theirs = [f"ctc_{name}" if self.hybrid and name.startswith("decoder.") else name for name in ours]
        named = unwrapped(path, state, theirs)
        check_filterbank(path, self.frontend, named)
        weights = {name: value for name, value in named.items() if not name.startswith(_NOT_NETWORK)}
        if self.hybrid:
            weights = {
                name.removeprefix("ctc_"): value
                for name, value in weights.items()
                if not name.startswith(_TRANSDUCER)
            }
        # from here on, nobody else holds the tensors
        del named
        state.clear()
        return self.wrap(path, filled(path, network, weights))

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
    with open_tar(path) as files:
        return _load(path, files, CONFIG_NAME, WEIGHTS_NAME)


def load_nemo_folder(path: str | os.PathLike[str]) -> AsrModel:
    """Read the folder that a `.nemo` archive was unpacked to, or raise CheckpointError."""
    with open_folder(path) as files:
        names = [
            _only(files, name, endings) for name, endings in ((CONFIG_NAME, _YAML), (WEIGHTS_NAME, _WEIGHTS))
        ]
        return _load(path, files, *names)


def is_nemo_folder(path: str | os.PathLike[str]) -> bool:
    """Tell whether ``path`` is a folder with a NeMo configuration, or with any YAML and weights, in it."""
    if not os.path.isdir(path):
        return False
    with open_folder(path) as files:
        kinds = {Path(name).suffix for name in files.names}
        return CONFIG_NAME in files or bool(kinds & set(_YAML) and kinds & set(_WEIGHTS))


def _load(path: str | os.PathLike[str], files: Files, config_name: str, weights_name: str) -> AsrModel:
    for name in (config_name, weights_name):
        if name not in files:
            raise CheckpointError(
                path,
                f"holds no {name}, but {files.listed()}",
                "it is not a .nemo archive that NeMo saved",
            )
    text = files.read(config_name, MAX_BYTES)
    config = parse_config(f"{os.fspath(path)}, {config_name}", text, files)
    with files.open(weights_name) as stream:
        state = load_tensors(path, stream)
    return config.model(path, state)


def _only(files: Files, name: str, endings: tuple[str, ...]) -> str:
    """Return ``name``, or where it is not there the one file of such an ending, with a warning."""
    if name in files:
        return name
    found = [one for one in files.names if one.endswith(endings)]
    if len(found) != 1:
        kinds = " or ".join(endings)
        problem = f"holds no {name}, and {len(found)} other files that end in {kinds}"
        raise CheckpointError(files.where, problem, f"call it {name}")
    warn(files.where, f"holds no {name}: {shown(found[0])} was taken for it", f"call it {name}")
    return found[0]


def read_config(path: str | os.PathLike[str]) -> NemoConfig:
    """Read a `model_config.yaml` from the disk; the files it refers to lie beside it."""
    with _beside(path) as files:
        return parse_config(path, read_file(path, CheckpointError, MAX_BYTES), files)


def read_surroundings(path: str | os.PathLike[str]) -> tuple[FrontendConfig, Tokenizer]:
    """Read the frontend and tokenizer of a `model_config.yaml`, whatever its network."""
    with _beside(path) as files:
        root = read_sections(path, read_file(path, CheckpointError, MAX_BYTES))
        with _errors_at(path):
            return _surroundings(path, root, files)


def parse_config(where: str | os.PathLike[str], text: bytes, files: Files) -> NemoConfig:
    """Understand the YAML ``text`` of a model; ``files`` are those that it may name.

    Raises CheckpointError when it is no YAML, UnsupportedModelError when it describes a model that is not
    supported.
    """
    root = read_sections(where, text)
    encoder, decoder = _section(where, root, "encoder"), _ctc_decoder(where, root)
    family = class_name(encoder), class_name(decoder)
    if family not in FAMILIES:
        supported = ", ".join(f"{e} with {d}" for e, d in FAMILIES)
        raise UnsupportedModelError(
            where, f"{family[0]} with {family[1]} is not supported", f"supported: {supported}"
        )
    with _errors_at(where):
        frontend, tokenizer = _surroundings(where, root, files)
        mels = Options(encoder, "encoder").whole("feat_in", 1, 2**20)
    if mels != frontend.features:
        raise CheckpointError(where, f"encoder.feat_in is {mels}, the preprocessor makes {frontend.features}")
    # the classes of a BPE model may be left to its tokenizer
    sections = {"encoder": encoder, "decoder": {**decoder, "num_classes": len(tokenizer.tokens)}}
    hybrid = HYBRID in root
    if hybrid:
        warn(
            where,
            "describes a hybrid of a transducer and a CTC head: the head was taken, the transducer left out",
        )
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


@contextlib.contextmanager
def _beside(path: str | os.PathLike[str]) -> Iterator[Files]:
    """Open the folder of ``path``, and no other."""
    folder = Path(path).parent
    if not folder.is_dir():
        raise CheckpointError(path, "there is no such file", "check the path")
    with open_folder(folder) as files:
        yield files


def _surroundings(
    where: str | os.PathLike[str], root: dict[str, Any], files: Files
) -> tuple[FrontendConfig, Tokenizer]:
    decoder = _ctc_decoder(where, root)
    frontend = read_frontend(_section(where, root, "preprocessor"))
    rate = root.get("sample_rate")
    if rate is not None and rate != frontend.sample_rate:
        problem = f"is {shown(rate)}, that of the preprocessor is {frontend.sample_rate}"
        raise ConfigError("sample_rate", problem, "name one rate")
    return frontend, read_tokenizer(where, root, decoder, files)


def _ctc_decoder(where: str | os.PathLike[str], root: dict[str, Any]) -> dict[str, Any]:
    """Return the decoder's section; of a hybrid that of its CTC head."""
    if HYBRID not in root:
        return _section(where, root, "decoder")
    head = _section(where, root, HYBRID)
    if not isinstance(head.get("decoder"), dict):
        raise CheckpointError(where, f"the model configuration has no {HYBRID}.decoder section")
    return _section(where, head, "decoder")


def _section(where: str | os.PathLike[str], root: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a section with its options at the top level, wherever that version of NeMo put them."""
    section = root.get(name)
    if not isinstance(section, dict):
        raise CheckpointError(where, f"the model configuration has no {name} section")
    nested = section.get("params")
    if not isinstance(nested, dict):
        return section
    return {key: value for key, value in section.items() if key != "params"} | nested


@contextlib.contextmanager
def _errors_at(where: str | os.PathLike[str]) -> Iterator[None]:
    """Let errors of a configuration's options say which file it is."""
    try:
        yield
    except UnsupportedOptionError as error:
        raise UnsupportedModelError(where, f"{error.where}: {error.problem}", error.remedy) from None
    except ConfigError as error:
        raise CheckpointError(where, f"{error.where}: {error.problem}", error.remedy) from None
