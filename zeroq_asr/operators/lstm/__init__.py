"""Long short-term memory (LSTM): over a sequence, or one step whose state the caller keeps.

Imported by: measure.
Imports: errors, registry, integer, graph, capture, lowering.
Never imports: embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""

from zeroq_asr.operators.lstm import lstm

__all__ = ["lstm"]
