"""Normalization of every frame over its channels.

Imported by: measure.
Imports: registry, integer, graph, capture, lowering.
Never imports: embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""

from zeroq_asr.operators.layer_norm import layer_norm

__all__ = ["layer_norm"]
