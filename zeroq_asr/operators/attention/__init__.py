"""Attention of every frame to all valid frames, and the distances between frames that it may read.

Imported by: measure.
Imports: registry, integer, graph, capture, lowering.
Never imports: embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""

from zeroq_asr.operators.attention import attention, distances

__all__ = ["attention", "distances"]
