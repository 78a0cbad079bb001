"""From a checkpoint to a proven integer ONNX file: ``prepare`` once a network, ``quantize`` once a format.

``prepare`` is the slow part, done once: load, capture, make features, observe every value on them.  ``build``
is the fast one, done for every format: choose ranges, lower.  ``quantize`` is both, trains what is coarse,
and proves, exports and writes what they make.

Imported by: measure.
Imports: errors, files, lines, progress, threads, config, speech, integer, graph, model, capture, checkpoints,
lowering, synthesis, calibration, training, deployment.
Never imports: measure, cli.
"""

from zeroq_asr.pipeline.build import build
from zeroq_asr.pipeline.prepare import Prepared, preparation, prepare
from zeroq_asr.pipeline.quantize import Quantized, quantize

__all__ = ["Prepared", "Quantized", "build", "preparation", "prepare", "quantize"]
