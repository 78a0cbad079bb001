"""What the user keeps in float: islands of a program, and calls of ATen that have no integer form.

Imported by: measure.
Imports: errors, registry, integer, graph, capture, lowering.
Never imports: embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""

from zeroq_asr.operators.float_island import aten, float_island

__all__ = ["aten", "float_island"]
