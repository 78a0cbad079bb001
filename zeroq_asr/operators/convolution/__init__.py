"""Convolutions over time, or over time and frequency, of bytes and of 16 bits.

``one_axis`` and ``two_axes`` register the operators of the float graph with their integer ones; ``wide`` has
those that read 16 bits.  What they share: ``requantization`` (the end of every definition, invariants,
exactness), ``weights`` and ``feedback`` (choosing integer weights), ``kernels`` (ONNX), ``captured`` (ATen).

Imported by: measure.
Imports: errors, threads, registry, integer, graph, capture, lowering.
Never imports: embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""

from zeroq_asr.operators.convolution import one_axis, two_axes

__all__ = ["one_axis", "two_axes"]
