"""What a user may choose, as frozen values: how to quantize, how to synthesize, how to calibrate.

Each specification is checked when it is made (ConfigError says what is allowed) and survives
a JSON round trip: ``Spec.from_dict(spec.to_dict()) == spec``.  Unknown keys are refused, so
that a misspelt option in a saved configuration is an error and not a silent default.

Imports: errors.
Never imports: registry, integer, graph, capture, operators, lowering, calibration, deployment, measure, cli.
"""

from zeroq_asr.config.calibration import MADE_MARGIN, METHODS, CalibrationSpec
from zeroq_asr.config.plan_file import LAYER_BITS
from zeroq_asr.config.quantization import NONLINEARITIES, ROUNDINGS, TARGETS, QuantSpec
from zeroq_asr.config.synthesis import INITS, SCHEDULES, SynthesisSpec

__all__ = [
    "INITS",
    "LAYER_BITS",
    "MADE_MARGIN",
    "METHODS",
    "NONLINEARITIES",
    "ROUNDINGS",
    "SCHEDULES",
    "TARGETS",
    "CalibrationSpec",
    "QuantSpec",
    "SynthesisSpec",
]
