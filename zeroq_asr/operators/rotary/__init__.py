"""Rotary positions: channels turned in pairs by angles that grow with the frame's number.

Imported by: measure.
Imports: errors, registry, integer, graph, lowering.
Never imports: embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""

from zeroq_asr.operators.rotary import rotate

__all__ = ["rotate"]
