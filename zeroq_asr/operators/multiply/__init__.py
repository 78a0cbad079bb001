"""Products of two activations, of bytes and of 16 bits; gates are such products.

Imported by: measure.
Imports: registry, integer, graph, capture, lowering.
Never imports: embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""

from zeroq_asr.operators.multiply import mul

__all__ = ["mul"]
