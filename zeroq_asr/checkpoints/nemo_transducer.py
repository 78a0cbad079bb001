"""Transducers of NeMo: their sections, and what their weights are called.

NeMo's model has an encoder, a decoder (the predictor) and a joint network, which holds the projections of
both; here each projection is the last layer of the part that it belongs to
(`zeroq_asr.architectures.transducer`).
"""

from __future__ import annotations

import os
from typing import Any

from zeroq_asr.architectures.options import REQUIRED, Options, UnsupportedOptionError
from zeroq_asr.architectures.transducer import LSTM, MAX_SYMBOLS, STATELESS, read_durations
from zeroq_asr.checkpoints.nemo_surroundings import class_name
from zeroq_asr.errors import ConfigError, warn
from zeroq_asr.lines import shown

#: the decoders of a transducer
PREDICTORS = (LSTM, STATELESS)
#: sections that a transducer has besides those of every model
SECTIONS = ("joint", "decoding", "loss")

#: how our names of weights begin → how NeMo's do
_NAMES = {
    "encoder.body.": "encoder.",
    "encoder.projection.": "joint.enc.",
    "predictor.embedding.": "decoder.prediction.embed.",
    "predictor.embeddings.": "decoder.prediction.embeds.",
    "predictor.lstm.": "decoder.prediction.dec_rnn.lstm.",
    "predictor.projection.": "joint.pred.",
}
_OUTPUT = "joiner.output."
_GREEDY = ("greedy", "greedy_batch")
#: of decoding; none: what the loss and the durations say
_KINDS = (None, "rnnt", "tdt")
#: options of decoding that leave the greedy path where it is: what is told of it, how it is found, and beams
_OF_RESULTS = (
    "beam",
    "boosting_tree_alpha",
    "compute_hypothesis_token_set",
    "compute_langs",
    "compute_timestamps",
    "confidence_cfg",
    "confidence_measure_cfg",
    "confidence_method_cfg",
    "fused_batch_size",
    "loop_labels",
    "max_symbols_per_step",
    "ngram_lm_alpha",
    "preserve_alignments",
    "preserve_frame_confidence",
    "rnnt_timestamp_type",
    "segment_gap_threshold",
    "segment_seperators",
    "tdt_include_duration_confidence",
    "tdt_include_token_duration",
    "temperature",
    "use_cuda_graph_decoder",
    "word_seperator",
)


def nemo_name(name: str, config: dict[str, Any]) -> str:
    """Return what NeMo calls the weight ``name`` of a transducer of ``config``."""
    if name.startswith(_OUTPUT):
        # behind the activation, and a dropout where there is one
        index = 2 if config["joint"]["jointnet"].get("dropout") else 1
        return f"joint.joint_net.{index}.{name.removeprefix(_OUTPUT)}"
    ours = next(prefix for prefix in _NAMES if name.startswith(prefix))
    return _NAMES[ours] + name.removeprefix(ours)


def transducer_config(
    where: str | os.PathLike[str], sections: dict[str, dict[str, Any]], tokens: int
) -> dict[str, Any]:
    """Return the configuration of ``conformer_transducer`` from the model's sections.

    ``sections`` holds "encoder", "decoder" and "joint", and of "decoding" and "loss" those that there are;
    the numbers of classes may be left to the tokenizer.  Raises ConfigError, which names the option.
    """
    decoder, joint = sections["decoder"], sections["joint"]
    for section, name, path in (
        (decoder, "vocab_size", "decoder"),
        (joint, "num_classes", "joint"),
    ):
        given = Options(section, path).whole(name, -1, 2**20, -1)
        if given > 0 and given != tokens:
            raise ConfigError(f"{path}.{name}", f"is {given}, the tokenizer has {tokens} tokens")
    durations, max_symbols = _decoding(
        where, Options(sections.get("decoding", {}), "decoding"), Options(sections.get("loss", {}), "loss")
    )
    return {
        "encoder": sections["encoder"],
        "decoder": {**decoder, "_target_": class_name(decoder), "vocab_size": tokens},
        "joint": {**joint, "_target_": class_name(joint), "num_classes": tokens},
        "decoding": {"durations": list(durations), "max_symbols": max_symbols},
    }


def _decoding(where: str | os.PathLike[str], decoding: Options, loss: Options) -> tuple[tuple[int, ...], int]:
    """Return the durations, and how many labels a frame may give; warn of what is not done as NeMo would."""
    name = loss.raw("loss_name")
    if name == "multiblank_rnnt" or decoding.raw("big_blank_durations") not in (None, []):
        raise UnsupportedOptionError(
            decoding.where("big_blank_durations"), "blanks of several frames are not supported"
        )
    durations = read_durations(decoding, "durations")
    if name == "tdt":
        # NeMo decodes with those of the training
        trained = read_durations(Options(loss.raw("tdt_kwargs", REQUIRED), "loss.tdt_kwargs"), "durations")
        if durations and durations != trained:
            raise ConfigError(
                decoding.where("durations"),
                f"is {shown(list(durations))}, loss.tdt_kwargs has {shown(list(trained))}",
            )
        durations = trained
    kind = decoding.raw("model_type")
    if kind not in _KINDS:
        raise ConfigError(
            decoding.where("model_type"), f"is {shown(kind)}", f"supported: {', '.join(_KINDS[1:])}"
        )
    if kind == "tdt" and not durations:
        raise ConfigError(decoding.where("durations"), "is missing from a transducer with durations")
    strategy = decoding.text("strategy", "greedy_batch")
    if strategy not in _GREEDY:
        warn(where, f"is meant to be decoded by {shown(strategy)[1:-1]}: it is decoded greedily here")
    greedy = Options(decoding.raw("greedy") or {}, decoding.where("greedy"))
    for option in ("ngram_lm_model", "boosting_tree"):
        if _names_something(greedy.raw(option)):
            problem = "is given, scores besides the network's are not supported"
            raise UnsupportedOptionError(greedy.where(option), problem, "leave it out")
    option = "max_symbols" if greedy.raw("max_symbols") is not None else "max_symbols_per_step"
    max_symbols = MAX_SYMBOLS
    if greedy.raw(option) is not None:
        max_symbols = greedy.whole(option, 1, 10_000)
    else:
        problem = (
            f"{greedy.where('max_symbols')} is not given: {MAX_SYMBOLS} tokens a frame at most are taken"
        )
        warn(where, problem, "give it")
    decoding.ignore(*_OF_RESULTS)
    greedy.ignore(*_OF_RESULTS)
    decoding.finish()
    greedy.finish()
    return durations, max_symbols


def _names_something(model: object) -> bool:
    """Tell whether a model of scores is given: a file, or a section that names a file or phrases."""
    if isinstance(model, dict):
        keys = ("model_path", "key_phrases_file", "key_phrases_list", "key_phrase_items_list")
        return any(model.get(key) for key in keys)
    return bool(model)
