"""Normalization of every channel over an utterance's own frames.

Imported by: measure.
Imports: registry, integer, graph, capture, lowering.
Never imports: embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""

from zeroq_asr.operators.instance_norm import instance_norm

__all__ = ["instance_norm"]
