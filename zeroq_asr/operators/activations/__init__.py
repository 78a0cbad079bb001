"""Elementwise nonlinearities, as tables of bytes and as polynomials.

Imported by: measure.
Imports: errors, registry, integer, graph, capture, lowering.
Never imports: embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""

from zeroq_asr.operators.activations import activations

__all__ = ["activations"]
