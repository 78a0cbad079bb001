"""Anything that turns features into scores: a float network in PyTorch, or an ONNX file.

Shapes: B batch, M mels, T feature frames, S encoded frames, V tokens with the CTC blank last.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from zeroq_asr.checkpoints import load_model
from zeroq_asr.checkpoints.heads import check_head
from zeroq_asr.config.choices import AUTO, CTC, TRANSDUCER
from zeroq_asr.config.decoding import BeamSpec
from zeroq_asr.decoding.decoder import CtcBeamDecoder
from zeroq_asr.deployment.bundle_recognizer import IntegerTransducer, is_bundle
from zeroq_asr.deployment.frontend_graph import AUDIO, AUDIO_LENGTH
from zeroq_asr.deployment.metadata import own_metadata
from zeroq_asr.deployment.optimized import ENDING, HEAD, is_optimized
from zeroq_asr.deployment.reading import OnnxSource, bytes_of
from zeroq_asr.deployment.sessions import open_session as open_session
from zeroq_asr.deployment.sessions import read_metadata as read_metadata
from zeroq_asr.deployment.sessions import readable, reason
from zeroq_asr.deployment.transducer import TokenRecognizer, TransducerRecognizer
from zeroq_asr.errors import CheckpointError, ConfigError
from zeroq_asr.files import open_file
from zeroq_asr.lines import size, summary
from zeroq_asr.model import AsrModel, Model, TransducerModel, require_inference
from zeroq_asr.speech.frontend_config import FeatureFunction, FrontendConfig, frontend_of
from zeroq_asr.speech.tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]
Lengths = npt.NDArray[np.int64]


class Recognizer(Protocol):
    """What evaluation and transcription need."""

    frontend: FrontendConfig
    tokenizer: Tokenizer
    name: str
    #: longest recording accepted, in seconds; None: no limit
    max_seconds: float | None
    #: feature frames per encoded frame; None: as many as the shapes say
    subsampling_factor: int | None

    def log_probs(self, features: Floats, lengths: Lengths) -> tuple[Floats, Lengths]:
        """Return scores [B, S, V] and lengths [B] of features [B, M, T] with lengths [B] in frames."""


class TorchRecognizer:
    """The float network of a checkpoint, run as it is."""

    max_seconds: float | None = None

    def __init__(self, model: AsrModel) -> None:
        """Raises ConfigError for a transducer, which gives no scores of frames alone."""
        if not isinstance(model, AsrModel):
            raise ConfigError("TorchRecognizer", "takes a CTC network", "TransducerRecognizer takes others")
        require_inference(model)
        self.model = model
        self.frontend = model.frontend
        self.tokenizer = model.tokenizer
        self.name = model.name
        self.subsampling_factor: int | None = model.subsampling_factor

    def __repr__(self) -> str:
        """Show the model, on one line."""
        return summary(self, self.name, "float", size(self.model.float_bytes))

    @torch.inference_mode()
    def log_probs(self, features: Floats, lengths: Lengths) -> tuple[Floats, Lengths]:
        """Return log-probabilities [B, S, V] and lengths [B]."""
        logits, encoded = self.model.network(torch.from_numpy(features), torch.from_numpy(lengths))
        # log_softmax leaves log-probabilities unchanged, so both kinds of output are served
        scores: Floats = torch.log_softmax(logits, dim=-1).numpy()
        return _fitting(self.name, scores, self.tokenizer), encoded.numpy().astype(np.int64)


class OnnxRecognizer:
    """An ONNX file: ours, or a float export of NeMo's.

    One of ours that has its frontend in it takes ``audio`` float32 [batch, samples] and ``audio_length``
    int64 [batch] instead; its ``frontend`` here hands samples on, which are then its features [B, 1, N].

    Inputs ``audio_signal`` float32 [batch, mels, frames] and ``length`` int64 [batch]; outputs
    ``logprobs`` and, in our files, ``encoded_lengths``.  Without the latter, lengths are
    ``ceil(length / subsampling factor)`` with the factor of the file's metadata, or of the
    shapes.  Our files carry frontend and tokenizer; for others both must be given.

    ``source`` is a file's name, its bytes, or what ``quantize`` returned.  ``frontend`` may be a function of
    samples [N] that gives features [M, T] like those of the file's own (``FrontendConfig.function``).
    ``threads`` and ``spin`` are as of ``open_session``.

    Raises CheckpointError when ONNX Runtime cannot load the file, or it is no such recogniser,
    VerificationError for one of ours whose account of itself is damaged.
    """

    def __init__(
        self,
        source: OnnxSource,
        threads: int | None = None,
        *,
        spin: bool = True,
        frontend: FrontendConfig | FeatureFunction | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        where, data = bytes_of(source)
        #: of bytes what errors call them
        self.path = path = Path(where)
        if data is None:
            open_file(path, CheckpointError).close()
        model = readable(path) if data is None else data
        self._session = open_session(path, model, threads, spin=spin)
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._outputs = [value.name for value in self._session.get_outputs()]
        #: whether the frontend is in the file
        self.takes_audio = self._inputs == {AUDIO, AUDIO_LENGTH}
        if not self.takes_audio and (
            "audio_signal" not in self._inputs or not self._inputs <= {"audio_signal", "length"}
        ):
            raise CheckpointError(
                path, f"takes {sorted(self._inputs)}, a recogniser takes audio_signal and length"
            )
        if "logprobs" not in self._outputs:
            raise CheckpointError(path, f"gives {self._outputs}, a recogniser gives logprobs")
        metadata = read_metadata(self.path, self._session)
        own = own_metadata(self.path, metadata)
        self.frontend, self.tokenizer = read_surroundings(self.path, own, frontend, tokenizer)
        self.name = str(own.get("name", self.path.stem))
        #: whether the file says itself what surrounds its network
        self.is_ours = bool(own)
        self.max_seconds: float | None = own.get("max_seconds")
        self.subsampling_factor: int | None = _factor(metadata)
        if not self.takes_audio:
            _check_features(self.path, self._session, self.frontend)
            return
        if frontend is not None:
            problem = "takes audio and computes its features itself"
            raise CheckpointError(self.path, problem, "leave frontend out, or export it --without-frontend")
        if own.get("with_frontend") is not True:
            raise CheckpointError(self.path, "takes audio, and does not say by which frontend")
        if self.subsampling_factor is not None:
            self.subsampling_factor *= self.frontend.hop_length
        self.frontend = self.frontend.handed_on()

    def __repr__(self) -> str:
        """Show the file and how long its recordings may be, on one line."""
        limit = "of any length" if self.max_seconds is None else f"to {self.max_seconds:g} s"
        return summary(self, self.path, self.name, limit)

    def log_probs(self, features: Floats, lengths: Lengths) -> tuple[Floats, Lengths]:
        """Return log-probabilities [B, S, V] and lengths [B].  Raises CheckpointError if the file fails."""
        if self.takes_audio:
            feed = {AUDIO: features[:, 0], AUDIO_LENGTH: lengths}
        else:
            feed = {"audio_signal": features, "length": lengths}
        wanted = [name for name in ("logprobs", "encoded_lengths") if name in self._outputs]
        try:
            results = self._session.run(wanted, {name: feed[name] for name in self._inputs})
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            raise CheckpointError(
                self.path, f"fails on features {list(features.shape)} ({reason(error)})"
            ) from None
        scores = _fitting(self.path, np.asarray(results[0], dtype=np.float32), self.tokenizer)
        if len(results) == 2:
            return scores, np.asarray(results[1], dtype=np.int64)
        steps = scores.shape[1]
        factor = self.subsampling_factor or frames_per_step(features.shape[2], steps)
        return scores, np.minimum(-(-lengths // factor), steps)


class BeamRecognizer:
    """A CTC network, whatever runs it, whose scores transcription and evaluation decode by a beam."""

    def __init__(self, recognizer: Recognizer, beam: BeamSpec | CtcBeamDecoder) -> None:
        """``beam``: of its own, or a decoder that others share.

        Raises ConfigError for a beam that cannot be had (``CtcBeamDecoder``).
        """
        self.recognizer = recognizer
        self.frontend = recognizer.frontend
        self.tokenizer = recognizer.tokenizer
        self.name = recognizer.name
        self.max_seconds: float | None = recognizer.max_seconds
        self.subsampling_factor: int | None = recognizer.subsampling_factor
        if isinstance(beam, BeamSpec):
            beam = CtcBeamDecoder(beam, self.tokenizer.tokens, texts=self.tokenizer.inner_texts())
        self.beam = beam

    def __repr__(self) -> str:
        """Show what is decoded and how wide the beam is, on one line."""
        return summary(self, self.name, f"a beam of {self.beam.spec.width}")

    def log_probs(self, features: Floats, lengths: Lengths) -> tuple[Floats, Lengths]:
        """Return scores [B, S, V] and lengths [B] of features [B, M, T] with lengths [B] in frames."""
        return self.recognizer.log_probs(features, lengths)


def frames_per_step(frames: int, steps: int) -> int:
    """Return how many feature frames an encoded frame stands for, by how many there are of each."""
    return max(1, round(frames / max(steps, 1)))


def open_recognizer(
    path: OnnxSource | Model,
    *,
    config: str | os.PathLike[str] | None = None,
    loader: str | None = None,
    language: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    head: str = AUTO,
    beam: BeamSpec | None = None,
    frontend: FrontendConfig | FeatureFunction | None = None,
) -> Recognizer | TokenRecognizer:
    """Open an ONNX file, the folder of a transducer's bundle, or a checkpoint, told apart by content.

    It may be given by its name, as a loaded model, as the bytes of an ONNX file, or as what ``quantize``
    returned.

    ``config``, ``loader``, ``language`` and ``head`` are handed to ``load_model``; ``checkpoint`` is the
    checkpoint that a foreign ONNX file came from and lends it frontend and tokenizer;
    ``threads`` is ONNX Runtime's; ``beam`` says how scores are decoded, None: greedily; ``frontend`` makes
    features in place of the recogniser's own, which a function of samples [N] must give in the same number
    and at the same rate, [M, T].

    Raises CheckpointError, and ConfigError for a beam that cannot be had.
    """
    check_head(head)
    given = {"config": config, "loader": loader, "language": language, "checkpoint": checkpoint}
    if isinstance(path, Model):
        _require_none(path.name, given, "a loaded model is whole")
        return _of_model(path, beam, frontend)
    name, data = bytes_of(path)
    if data is not None:
        if data[:1] != b"\x08" and not is_optimized(data):
            raise CheckpointError(name, "are no ONNX file", "write a checkpoint to a file, and give its name")
        return _decoded(_lent_to(data, threads, checkpoint, config, loader, language, frontend), beam)
    path = name
    if is_bundle(path):
        if head == CTC:
            raise CheckpointError(path, "is a transducer's bundle, which has no CTC head", "leave --head out")
        _require_none(path, given, "a bundle brings its frontend and its tokens")
        return IntegerTransducer.of_folder(path, threads, beam, frontend=frontend)
    own = (loader is not None or language is not None) and checkpoint is None
    if own or not is_onnx(path):
        _require_none(path, {"checkpoint": checkpoint}, "a checkpoint brings its frontend and its tokens")
        model = load_model(path, config=config, loader=loader, language=language, head=head)
        return _of_model(model, beam, frontend)
    if checkpoint is None:
        _require_none(path, {"config": config}, "an ONNX file takes none but for --checkpoint")
    if head == TRANSDUCER:
        raise CheckpointError(path, "is an ONNX file; a transducer is a folder of them", "leave --head out")
    return _decoded(_lent_to(path, threads, checkpoint, config, loader, language, frontend), beam)


def _of_model(
    model: Model, beam: BeamSpec | None, frontend: FrontendConfig | FeatureFunction | None
) -> Recognizer | TokenRecognizer:
    """Return what runs a loaded model in float."""
    model = dataclasses.replace(model, frontend=frontend_of(frontend, model.frontend))
    if isinstance(model, TransducerModel):
        return TransducerRecognizer(model, beam)
    assert isinstance(model, AsrModel)
    return _decoded(TorchRecognizer(model), beam)


def _lent_to(
    source: OnnxSource,
    threads: int | None,
    checkpoint: str | os.PathLike[str] | None,
    config: str | os.PathLike[str] | None,
    loader: str | None,
    language: str | None,
    frontend: FrontendConfig | FeatureFunction | None,
) -> OnnxRecognizer:
    """Open an ONNX file with what a checkpoint lends, if one is named, and a frontend that is given."""
    if checkpoint is None:
        return OnnxRecognizer(source, threads, frontend=frontend)
    lender = load_model(checkpoint, config=config, loader=loader, language=language)
    lent = frontend_of(frontend, lender.frontend)
    found = OnnxRecognizer(source, threads, frontend=lent, tokenizer=lender.tokenizer)
    if found.is_ours:
        given = {"checkpoint": checkpoint}
        _require_none(found.path, given, "a file of zeroq-asr brings its frontend and its tokens")
    return found


def _require_none(where: str | os.PathLike[str], options: Mapping[str, object], why: str) -> None:
    """Raise CheckpointError for the first of ``options`` that is given where nothing would read it."""
    for name, value in options.items():
        if value is not None:
            raise CheckpointError(where, why, f"leave --{name} out")


def _decoded(recognizer: Recognizer, beam: BeamSpec | None) -> Recognizer:
    """Return a CTC network's recogniser as it is, which is decoded greedily, or by a beam."""
    return recognizer if beam is None else BeamRecognizer(recognizer, beam)


def is_onnx(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is ONNX, or of ONNX Runtime's own format: by its name, or by how it begins."""
    if Path(path).suffix.lower() in (".onnx", ENDING):
        return True
    try:
        with open_file(path, CheckpointError) as stream:
            head = stream.read(HEAD)
    except (CheckpointError, OSError):
        return False  # whoever reads it next says why
    # ModelProto's field 1, ir_version, a small number: no archive or pickle begins so
    return is_optimized(head) or (len(head) >= 2 and head[0] == 0x08 and 0 < head[1] < 0x80)


def read_surroundings(
    path: str | os.PathLike[str],
    own: dict[str, Any],
    frontend: FrontendConfig | FeatureFunction | None = None,
    tokenizer: Tokenizer | None = None,
) -> tuple[FrontendConfig, Tokenizer]:
    """Return frontend and tokenizer, those given or else the metadata's, or raise CheckpointError.

    Raises ConfigError for a frontend that is a function where there is no other whose numbers it has.
    """
    config = frontend if isinstance(frontend, FrontendConfig) else None
    try:
        if config is None and "frontend" in own:
            config = FrontendConfig.from_dict(own["frontend"])
        if tokenizer is None and "tokenizer" in own:
            tokenizer = Tokenizer.from_dict(own["tokenizer"])
    except ConfigError as error:
        raise CheckpointError(path, f"its metadata is damaged ({error})", "export it again") from None
    if frontend is not None:
        config = frontend_of(frontend, config)
    if config is None or tokenizer is None:
        missing = "a frontend" if config is None else "a tokenizer"
        raise CheckpointError(
            path,
            f"does not say what surrounds the network: {missing} is missing",
            "name the checkpoint it came from with --checkpoint",
        )
    return config, tokenizer


def _check_features(path: Path, session: Any, frontend: FrontendConfig) -> None:
    """Require the frontend to give as many features as the file says that it takes, if it does."""
    shape = next(value.shape for value in session.get_inputs() if value.name == "audio_signal")
    takes = shape[1] if shape is not None and len(shape) == 3 else None
    if isinstance(takes, int) and takes != frontend.features:
        problem = f"takes {takes} features, its frontend gives {frontend.features}"
        raise CheckpointError(path, problem, "is this the frontend it was trained with?")


def _factor(metadata: dict[str, str]) -> int | None:
    text = metadata.get("subsampling_factor", "")
    whole = text.isascii() and text.isdigit() and len(text) < 10
    return int(text) if whole and int(text) > 0 else None


def _fitting(where: str | os.PathLike[str], scores: Floats, tokenizer: Tokenizer) -> Floats:
    """Return ``scores`` if they are [B, S, V] with V the tokens and the blank."""
    classes = tokenizer.blank_id + 1
    if scores.ndim != 3 or scores.shape[2] != classes:
        raise CheckpointError(
            where,
            f"gives scores {list(scores.shape)}, expected [batch, frames, {classes}]",
            "is this the tokenizer it was trained with?",
        )
    return scores
