"""Which head of a network is read: a CTC head, or a transducer's predictor and joiner."""

from __future__ import annotations

import os

from zeroq_asr.config.choices import CTC, HEADS, TRANSDUCER
from zeroq_asr.errors import ConfigError, UnsupportedModelError
from zeroq_asr.lines import shown
from zeroq_asr.model import AsrModel, TransducerModel


def check_head(head: str) -> None:
    """Raise ConfigError unless ``head`` is one of `HEADS`."""
    if head not in HEADS:
        raise ConfigError("head", f"unknown head {shown(head)}", f"use one of {', '.join(HEADS)}")


def require_head(path: str | os.PathLike[str], is_transducer: bool, head: str) -> None:
    """Raise UnsupportedModelError unless a model of one head has the head that is asked for."""
    if is_transducer and head == CTC:
        raise UnsupportedModelError(
            path,
            "is a transducer, a CTC head was expected",
            "quantize, transcribe, evaluate, compare, report, bench and inspect take transducers, "
            "without --head ctc",
        )
    if not is_transducer and head == TRANSDUCER:
        raise UnsupportedModelError(path, "has no transducer's head", "ask for its CTC head")


def with_head(
    path: str | os.PathLike[str], model: AsrModel | TransducerModel, head: str
) -> AsrModel | TransducerModel:
    """Return ``model``, or raise UnsupportedModelError where its head is another than is asked for."""
    require_head(path, isinstance(model, TransducerModel), head)
    return model
