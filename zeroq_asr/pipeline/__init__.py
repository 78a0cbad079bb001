"""From a checkpoint to a proven integer ONNX file: ``prepare`` once a network, ``quantize`` once a format.

``prepare`` is the slow part, done once: load, capture, make features, observe every value on them.  ``build``
is the fast one, done for every format: choose ranges, lower.  ``quantize`` is both, trains what is coarse,
and proves, exports and writes what they make.  Of a transducer each has its own form, which makes the
programs of its three parts.

Imported by: measure.
Imports: errors, files, lines, progress, threads, config, speech, decoding, integer, graph, model, capture,
checkpoints, lowering, synthesis, calibration, training, deployment.
Never imports: measure, cli.
"""

from zeroq_asr.pipeline.build import build
from zeroq_asr.pipeline.prepare import Prepared, preparation, prepare
from zeroq_asr.pipeline.quantize import Quantized, quantize
from zeroq_asr.pipeline.transducer import (
    PreparedTransducer,
    QuantizedTransducer,
    build_transducer,
    prepare_transducer,
    quantize_transducer,
)

__all__ = [
    "Prepared",
    "PreparedTransducer",
    "Quantized",
    "QuantizedTransducer",
    "build",
    "build_transducer",
    "preparation",
    "prepare",
    "prepare_transducer",
    "quantize",
    "quantize_transducer",
]
