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

from zeroq_asr.architectures import SUBSAMPLING, TRANSDUCERS
from zeroq_asr.architectures.options import Options, UnsupportedOptionError
from zeroq_asr.checkpoints.archive import Files, open_folder, open_tar
from zeroq_asr.checkpoints.heads import require_head
from zeroq_asr.checkpoints.nemo_surroundings import class_name, read_frontend, read_tokenizer
from zeroq_asr.checkpoints.nemo_transducer import PREDICTORS, SECTIONS, nemo_name, transducer_config
from zeroq_asr.checkpoints.nemo_yaml import HYBRID, MAX_BYTES, read_sections
from zeroq_asr.checkpoints.pickles import load_tensors
from zeroq_asr.checkpoints.weights import empty_network, filled, is_dense, unwrapped
from zeroq_asr.config.choices import AUTO, CTC, TRANSDUCER
from zeroq_asr.errors import CheckpointError, ConfigError, UnsupportedModelError, warn
from zeroq_asr.files import read_file
from zeroq_asr.lines import shown
from zeroq_asr.model import AsrModel, TransducerModel, model_of
from zeroq_asr.speech.frontend_config import FrontendConfig
from zeroq_asr.speech.mel import mel_filterbank
from zeroq_asr.speech.tokenizer import Tokenizer

CONFIG_NAME = "model_config.yaml"
WEIGHTS_NAME = "model_weights.ckpt"
#: how the files of such names end, where they have another
_YAML, _WEIGHTS = (".yaml", ".yml"), (".ckpt", ".pt")

#: (encoder class, decoder class) → the name in ARCHITECTURES
FAMILIES = {
    ("ConvASREncoder", "ConvASRDecoder"): "conv_ctc",
    ("ConformerEncoder", "ConvASRDecoder"): "conformer_ctc",
    **{("ConformerEncoder", predictor): "conformer_transducer" for predictor in PREDICTORS},
}

#: our mel filters may differ by this much from those the model was trained with
FILTERBANK_TOLERANCE = 1e-4

#: parts of a training state that are no weights of the network
_NOT_NETWORK = ("preprocessor.", "spec_augmentation.", "loss.", "wer.", "_wer.", "decoding.")
#: parts of a hybrid that its CTC head does without, and those that its transducer does without
_OF_TRANSDUCER = ("decoder.", "joint.", "ctc_loss.", "ctc_wer.")
_OF_CTC = ("ctc_decoder.", "ctc_loss.", "ctc_wer.")


@dataclass(frozen=True)
class NemoConfig:
    """What a `model_config.yaml` says, in this package's terms."""

    architecture: str
    #: the "encoder" and "decoder" sections, and of a transducer "joint" and "decoding"
    config: dict[str, Any]
    frontend: FrontendConfig
    tokenizer: Tokenizer
    #: a transducer with a CTC head beside it, whose weights are called ctc_decoder; one of the two is read
    hybrid: bool = False

    def model(self, path: str | os.PathLike[str], state: dict[str, Any]) -> AsrModel | TransducerModel:
        """Return the recogniser with NeMo's weights ``state``, which is used up, or raise CheckpointError."""
        network = empty_network(path, self.architecture, self.config)
        theirs = {self._theirs(name): name for name in network.state_dict()}
        named = unwrapped(path, state, theirs)
        check_filterbank(path, self.frontend, named)
        weights = {
            theirs.get(name, name): value
            for name, value in named.items()
            if name in theirs or not name.startswith(self._left_out)
        }
        # from here on, nobody else holds the tensors
        del named
        state.clear()
        model = self.wrap(path, filled(path, network, weights))
        if isinstance(model, TransducerModel):
            check_blank(path, model.network.predictor)
        return model

    def _theirs(self, name: str) -> str:
        """Return what NeMo calls a weight of the network."""
        if self.architecture in TRANSDUCERS:
            return nemo_name(name, self.config)
        return f"ctc_{name}" if self.hybrid and name.startswith("decoder.") else name

    @property
    def _left_out(self) -> tuple[str, ...]:
        """How the names of those weights begin that the network does without."""
        if not self.hybrid:
            return _NOT_NETWORK
        return (*_NOT_NETWORK, *(_OF_CTC if self.architecture in TRANSDUCERS else _OF_TRANSDUCER))

    def wrap(self, path: str | os.PathLike[str], network: torch.nn.Module) -> AsrModel | TransducerModel:
        """Return the recogniser around a network that is already built."""
        return model_of(
            network,
            frontend=self.frontend,
            tokenizer=self.tokenizer,
            name=Path(path).stem,
            architecture=self.architecture,
            config=self.config,
            subsampling_factor=SUBSAMPLING[self.architecture](self.config),
        )


def load_nemo(path: str | os.PathLike[str], head: str = CTC) -> AsrModel | TransducerModel:
    """Read a `.nemo` archive, or raise CheckpointError."""
    with open_tar(path) as files:
        return _load(path, files, CONFIG_NAME, WEIGHTS_NAME, head)


def load_nemo_folder(path: str | os.PathLike[str], head: str = CTC) -> AsrModel | TransducerModel:
    """Read the folder that a `.nemo` archive was unpacked to, or raise CheckpointError."""
    with open_folder(path) as files:
        config_name, weights_name = (
            _only(files, name, endings) for name, endings in ((CONFIG_NAME, _YAML), (WEIGHTS_NAME, _WEIGHTS))
        )
        return _load(path, files, config_name, weights_name, head)


def is_nemo_folder(path: str | os.PathLike[str]) -> bool:
    """Tell whether ``path`` is a folder with a NeMo configuration, or with any YAML and weights, in it."""
    if not os.path.isdir(path):
        return False
    with open_folder(path) as files:
        kinds = {Path(name).suffix for name in files.names}
        return CONFIG_NAME in files or bool(kinds & set(_YAML) and kinds & set(_WEIGHTS))


def _load(
    path: str | os.PathLike[str], files: Files, config_name: str, weights_name: str, head: str
) -> AsrModel | TransducerModel:
    for name in (config_name, weights_name):
        if name not in files:
            raise CheckpointError(
                path,
                f"holds no {name}, but {files.listed()}",
                "it is not a .nemo archive that NeMo saved",
            )
    text = files.read(config_name, MAX_BYTES)
    config = parse_config(f"{os.fspath(path)}, {config_name}", text, files, head)
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


def read_config(path: str | os.PathLike[str], head: str = CTC) -> NemoConfig:
    """Read a `model_config.yaml` from the disk; the files it refers to lie beside it."""
    with _beside(path) as files:
        return parse_config(path, read_file(path, CheckpointError, MAX_BYTES), files, head)


def read_surroundings(path: str | os.PathLike[str]) -> tuple[FrontendConfig, Tokenizer]:
    """Read the frontend and tokenizer of a `model_config.yaml`, whatever its network."""
    with _beside(path) as files:
        root = read_sections(path, read_file(path, CheckpointError, MAX_BYTES))
        with _errors_at(path):
            return _surroundings(path, root, _ctc_decoder(path, root), files)


def parse_config(where: str | os.PathLike[str], text: bytes, files: Files, head: str = CTC) -> NemoConfig:
    """Understand the YAML ``text`` of a model; ``files`` are those that it may name, ``head`` is of `HEADS`.

    Raises CheckpointError when it is no YAML, UnsupportedModelError when it describes a model that is not
    supported.
    """
    root = read_sections(where, text, lambda found: SECTIONS if _takes_transducer(found, head) else ())
    if _takes_transducer(root, head):
        return _parse_transducer(where, root, files)
    encoder, decoder = _section(where, root, "encoder"), _ctc_decoder(where, root)
    family = class_name(encoder), class_name(decoder)
    require_head(where, family[1] in PREDICTORS, CTC)
    architecture = _architecture(where, *family)
    with _errors_at(where):
        frontend, tokenizer = _surroundings(where, root, decoder, files)
        _require_mels(where, encoder, frontend)
    # the classes of a BPE model may be left to its tokenizer
    sections = {"encoder": encoder, "decoder": {**decoder, "num_classes": len(tokenizer.tokens)}}
    hybrid = HYBRID in root
    if hybrid:
        warn(
            where,
            "describes a hybrid of a transducer and a CTC head: the head was taken, the transducer left out",
        )
    return NemoConfig(architecture, sections, frontend, tokenizer, hybrid)


def _parse_transducer(where: str | os.PathLike[str], root: dict[str, Any], files: Files) -> NemoConfig:
    """Understand the sections of a transducer, whatever CTC head stands beside it."""
    encoder, decoder = _section(where, root, "encoder"), _section(where, root, "decoder")
    require_head(where, class_name(decoder) in PREDICTORS, TRANSDUCER)
    architecture = _architecture(where, class_name(encoder), class_name(decoder))
    sections = {name: _section(where, root, name) for name in ("encoder", "decoder", "joint")}
    # a model of before there were any has no such section
    sections |= {name: _section(where, root, name) for name in SECTIONS[1:] if root.get(name) is not None}
    with _errors_at(where):
        frontend, tokenizer = _surroundings(where, root, sections["joint"], files, "joint")
        _require_mels(where, encoder, frontend)
        config = transducer_config(where, sections, len(tokenizer.tokens))
    return NemoConfig(architecture, config, frontend, tokenizer, HYBRID in root)


def _takes_transducer(root: dict[str, Any], head: str) -> bool:
    """Tell whether the transducer of a model is to be read: asked for, or all that there is."""
    if head != AUTO:
        return head == TRANSDUCER
    decoder = root.get("decoder")
    return HYBRID not in root and isinstance(decoder, dict) and class_name(decoder) in PREDICTORS


def _architecture(where: str | os.PathLike[str], encoder: str, decoder: str) -> str:
    """Return our name of a pair of classes, or raise UnsupportedModelError."""
    if (encoder, decoder) not in FAMILIES:
        supported = ", ".join(f"{e} with {d}" for e, d in FAMILIES)
        raise UnsupportedModelError(
            where, f"{encoder} with {decoder} is not supported", f"supported: {supported}"
        )
    return FAMILIES[encoder, decoder]


def _require_mels(where: str | os.PathLike[str], encoder: dict[str, Any], frontend: FrontendConfig) -> None:
    mels = Options(encoder, "encoder").whole("feat_in", 1, 2**20)
    if mels != frontend.features:
        raise CheckpointError(where, f"encoder.feat_in is {mels}, the preprocessor makes {frontend.features}")


def check_blank(path: str | os.PathLike[str], predictor: torch.nn.Module) -> None:
    """Warn where the blank's embedding is not zero: NeMo reads it as zeros in one decoder, not in another."""
    tables = (module.weight for module in predictor.modules() if isinstance(module, torch.nn.Embedding))
    if any(bool(table[-1].any()) for table in tables):
        warn(
            path,
            "its embedding of the blank is not zero: it is taken as it is, as NeMo's batched decoding does",
        )


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
    where: str | os.PathLike[str],
    root: dict[str, Any],
    head: dict[str, Any],
    files: Files,
    name: str = "decoder",
) -> tuple[FrontendConfig, Tokenizer]:
    """Return frontend and tokenizer; ``head`` is the section, called ``name``, that has the vocabulary."""
    frontend = read_frontend(_section(where, root, "preprocessor"))
    rate = root.get("sample_rate")
    if rate is not None and rate != frontend.sample_rate:
        problem = f"is {shown(rate)}, that of the preprocessor is {frontend.sample_rate}"
        raise ConfigError("sample_rate", problem, "name one rate")
    return frontend, read_tokenizer(where, root, head, files, name)


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
