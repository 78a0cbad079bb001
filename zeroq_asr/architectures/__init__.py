"""Float networks as plain modules, with no trace of quantization in them.

Each is built from its configuration, ``ARCHITECTURES[name](config)``, and maps features
[B, M, T] and lengths [B] to logits [B, S, V] and encoded lengths [B]; a transducer is a `Transducer`, of
three parts.

Imported by: model, checkpoints.
Imports: errors, lines.
Never imports: graph, model, capture, checkpoints, lowering, operators, embedded, synthesis, calibration,
deployment, pipeline, measure, cli.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from zeroq_asr.architectures import conformer, quartznet, transducer

ARCHITECTURES: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "conv_ctc": quartznet.ConvCtc,
    "conformer_ctc": conformer.ConformerCtc,
    "conformer_transducer": transducer.conformer_transducer,
}

#: those that are a `Transducer`
TRANSDUCERS = ("conformer_transducer",)

#: input frames per encoded frame, from the configuration of the same architecture
SUBSAMPLING: dict[str, Callable[[dict[str, Any]], int]] = {
    "conv_ctc": quartznet.subsampling_factor,
    "conformer_ctc": conformer.subsampling_factor,
    "conformer_transducer": conformer.subsampling_factor,
}
