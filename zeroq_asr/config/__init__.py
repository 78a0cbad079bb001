"""What a user may choose, as frozen values that check themselves and survive JSON and YAML.

Each specification is checked when it is made (ConfigError says what is allowed) and survives
a JSON round trip: ``Spec.from_dict(spec.to_dict()) == spec``.  Unknown keys are refused, so
that a misspelt option in a saved configuration is an error and not a silent default.

Imported by: decoding, integer, checkpoints, lowering, synthesis, calibration, deployment, pipeline, measure,
cli.
Imports: errors, files, lines.
Never imports: registry, speech, decoding, integer, graph, architectures, model, capture, checkpoints,
lowering, operators, embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""

from zeroq_asr.config.calibration import MADE_MARGIN, METHODS, CalibrationSpec
from zeroq_asr.config.choices import DEVICES, DIALECTS
from zeroq_asr.config.decoding import SEARCHES, BeamSpec
from zeroq_asr.config.labels import LABEL_SOURCES, LabelSpec
from zeroq_asr.config.plan_file import LAYER_BITS
from zeroq_asr.config.quantization import NONLINEARITIES, ROUNDINGS, TARGETS, QuantSpec
from zeroq_asr.config.sweep import SweepModel, SweepSpec, read_sweep
from zeroq_asr.config.synthesis import INITS, SCHEDULES, SynthesisSpec
from zeroq_asr.config.training import RECONSTRUCTIONS, TrainingSpec

__all__ = [
    "DEVICES",
    "DIALECTS",
    "INITS",
    "LABEL_SOURCES",
    "LAYER_BITS",
    "MADE_MARGIN",
    "METHODS",
    "NONLINEARITIES",
    "RECONSTRUCTIONS",
    "ROUNDINGS",
    "SCHEDULES",
    "SEARCHES",
    "TARGETS",
    "BeamSpec",
    "CalibrationSpec",
    "LabelSpec",
    "QuantSpec",
    "SweepModel",
    "SweepSpec",
    "SynthesisSpec",
    "TrainingSpec",
    "read_sweep",
]
