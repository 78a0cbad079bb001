"""What surrounds the network of a NeMo model: the preprocessor and the tokenizer of its configuration."""

from __future__ import annotations

import math
import os
from pathlib import PurePosixPath
from typing import Any

from zeroq_asr.architectures.options import Options, UnsupportedOptionError
from zeroq_asr.checkpoints.archive import Files
from zeroq_asr.errors import ConfigError, warn
from zeroq_asr.lines import shown
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

#: of a file of pieces
_MAX_TOKENIZER_BYTES = 64 * 2**20


def class_name(section: dict[str, Any]) -> str:
    """Return the class that a section is of, without the package that it is in."""
    name = section.get("_target_", section.get("cls", "an unnamed class"))
    # a list or a mapping is shown as one, a name without the package that it is in
    return shown(name.rpartition(".")[2])[1:-1] if isinstance(name, str) else shown(name)


def read_frontend(section: dict[str, Any]) -> FrontendConfig:
    """Return the frontend of a preprocessor's section; absent options have NeMo's values."""
    options = Options(section, "preprocessor")
    name = class_name(section)
    if name != "AudioToMelSpectrogramPreprocessor":
        raise UnsupportedOptionError(
            "preprocessor", f"{name} is not supported", "supported: AudioToMelSpectrogramPreprocessor"
        )
    rate = options.whole("sample_rate", 1, 10**6, 16000)
    guard = options.raw("log_zero_guard_value", 2**-24)
    if not isinstance(guard, str):
        guard = options.number("log_zero_guard_value", 0, 1e9, 2**-24)
    elif guard not in ("tiny", "eps"):
        raise options.wrong("log_zero_guard_value", "a positive number, tiny or eps")
    preemph, top = options.raw("preemph", 0.97), options.raw("highfreq")
    fft = options.raw("n_fft")
    options.only("frame_splicing", 1)
    options.only("use_torchaudio", False)
    options.only("use_grads", False)
    options.only("mel_norm", "slaney", None)
    values = {
        "sample_rate": rate,
        "window_size": _seconds(options, "window_size", 0.02, rate),
        "window_stride": _seconds(options, "window_stride", 0.01, rate),
        "window": options.choice("window", ("hann", "hamming", "blackman", "bartlett", "none"), "hann"),
        "features": options.whole("features", 1, 4096, 64),
        # NeMo takes 0 for null here
        "n_fft": None if fft in (None, 0) else options.whole("n_fft", 1, 2**20),
        "preemph": None if preemph is None else options.number("preemph", -1e9, 1e9, 0.97),
        "lowfreq": options.number("lowfreq", 0, 1e6, 0),
        "highfreq": None if top in (None, 0) else options.number("highfreq", 0, 1e6),
        "log": options.flag("log", True),
        "log_zero_guard_type": options.choice("log_zero_guard_type", ("add", "clamp"), "add"),
        "log_zero_guard_value": guard,
        "normalize": _normalization(options),
        "pad_to": options.whole("pad_to", 0, 2**20, 16),
        "pad_value": options.number("pad_value", -1e9, 1e9, 0.0),
        "mag_power": options.number("mag_power", 0, 100, 2.0),
        "exact_pad": options.flag("exact_pad", False),
        "mel_norm": options.raw("mel_norm", "slaney"),
    }
    options.ignore(
        "_target_",
        "cls",
        # noise, and frequencies left out, of the training alone
        "dither",
        "nb_augmentation_prob",
        "nb_max_freq",
        "rng",
        # NeMo reads them for old configurations' sake and does nothing
        "stft_conv",
        "stft_exact_pad",
    )
    options.finish()
    try:
        return FrontendConfig.from_dict(values)
    except ConfigError as error:
        raise ConfigError("preprocessor", error.problem, error.remedy) from None


def _seconds(options: Options, name: str, default: float, rate: int) -> float:
    """Return a length of time, which may be given in samples instead."""
    samples = options.raw(f"n_{name}")
    if samples in (None, 0):
        return options.number(name, 0, 10, default)
    count = options.whole(f"n_{name}", 1, 2**20)
    if options.raw(name) not in (None, 0):
        raise ConfigError(options.where(name), f"is given, and n_{name} too", "leave one of them out")
    seconds = count / rate
    # as many samples as were given, whatever the division did to the last digit
    return seconds if int(seconds * rate) == count else math.nextafter(seconds, math.inf)


def _normalization(options: Options) -> Any:
    """Return how features are normalised; None where NeMo knows the name and does nothing."""
    value = options.raw("normalize", "per_feature")
    if value is None or value is False or value in ("NA", "None", "none", "null", ""):
        return None
    if isinstance(value, dict):
        return value
    return options.choice("normalize", ("per_feature", "all_features"), "per_feature")


def read_tokenizer(
    where: str | os.PathLike[str],
    root: dict[str, Any],
    head: dict[str, Any],
    files: Files,
    name: str = "decoder",
) -> Tokenizer:
    """Return the tokenizer of a model: its pieces, or its characters.

    ``head`` is the section, called ``name``, that may have the vocabulary and its number of classes.
    """
    tokens = _tokens(f"{name}.vocabulary", head.get("vocabulary")) or _tokens("labels", root.get("labels"))
    section = root.get("tokenizer")
    if section is None:
        tokenizer = Tokenizer(tokens)
    else:
        tokenizer = _pieces(where, Options(section, "tokenizer"), tokens, files)
    classes = Options(head, name).whole("num_classes", -1, 2**20, -1)
    if classes > 0 and classes != len(tokenizer.tokens):
        raise ConfigError(
            f"{name}.num_classes", f"is {classes}, the tokenizer has {len(tokenizer.tokens)} tokens"
        )
    return tokenizer


def _tokens(path: str, value: object) -> tuple[str, ...]:
    """Return a list of tokens; none where it is null."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ConfigError(path, f"must be a list of tokens, got {shown(value)}")
    seen: set[str] = set()
    for index, token in enumerate(value):
        # a digit without quotes is one; true may have been yes, or on
        if isinstance(token, bool) or not isinstance(token, str | int):
            raise ConfigError(f"{path}[{index}]", f"must be a text, got {shown(token)}", "put it in quotes")
        if str(token) in seen:
            raise ConfigError(f"{path}[{index}]", f"{shown(token)} is a token already", "name each one once")
        seen.add(str(token))
    return tuple(map(str, value))


def _pieces(
    where: str | os.PathLike[str], options: Options, tokens: tuple[str, ...], files: Files
) -> Tokenizer:
    """Return the tokenizer of pieces: a SentencePiece model, or word pieces by name."""
    options.only("custom_tokenizer", None)
    options.ignore("dir", "spe_tokenizer_vocab", "update_tokenizer", "hf_kwargs", "model_path", "vocab_path")
    kind = options.raw("type")
    if kind is None:
        kind = "bpe" if _find(where, options, "model_path", "tokenizer.model", files) else "wpe"
        warn(where, f"tokenizer.type is not given: {kind} was taken, by the files beside it", "give it")
    elif kind not in ("bpe", "wpe"):
        options.choice("type", ("bpe", "wpe"))
    options.finish()
    if kind == "bpe":
        name = _find(where, options, "model_path", "tokenizer.model", files)
        if name is not None:
            return Tokenizer.from_sentencepiece(files.read(name, _MAX_TOKENIZER_BYTES))
        if tokens:
            return Tokenizer(tokens, "sentencepiece")
        missing = str(options.raw("model_path") or "tokenizer.model").removeprefix("nemo:")
    else:
        if tokens:
            return Tokenizer(tokens, "wordpiece")
        name = _find(where, options, "vocab_path", "vocab.txt", files)
        if name is not None:
            lines = files.read(name, _MAX_TOKENIZER_BYTES).decode(errors="replace").splitlines()
            return Tokenizer(tuple(line.strip() for line in lines if line.strip()), "wordpiece")
        missing = str(options.raw("vocab_path") or "vocab.txt").removeprefix("nemo:")
    raise ConfigError(
        "tokenizer",
        f"{shown(missing)[1:-1]} is missing and there is no vocabulary",
        "put it beside the configuration",
    )


def _find(
    where: str | os.PathLike[str], options: Options, option: str, usual: str, files: Files
) -> str | None:
    """Return the name of a tokenizer's file among ``files``: the one given, or the one that NeMo would give.

    NeMo puts a hash before names in archives; a configuration of before does not know it.
    """
    given = options.raw(option)
    if given is not None and not isinstance(given, str):
        raise options.wrong(option, "a file name")
    if given:
        name = given.removeprefix("nemo:")
        if name in files:
            return name
        # a path of the machine that trained: never opened, its last part may lie here too
        last = PurePosixPath(name).name
    else:
        last = usual
        if last in files:
            return last
    found = [one for one in files.names if one == last or one.endswith(f"_{usual}")]
    if len(found) != 1:
        return None
    said = f"tokenizer.{option} is {shown(given)}, which is not there" if given else f"names no {usual}"
    warn(where, f"{said}: {shown(found[0])} was taken", f"give tokenizer.{option}")
    return found[0]
