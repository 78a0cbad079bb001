"""The public names, which ``zeroq_asr`` gives on first use; importing them takes seconds, for torch."""

from __future__ import annotations

from zeroq_asr._version import __version__
from zeroq_asr.checkpoints import load_checkpoint, load_model, save_checkpoint
from zeroq_asr.config import (
    BeamSpec,
    CalibrationSpec,
    LabelSpec,
    QuantSpec,
    SweepModel,
    SweepSpec,
    SynthesisSpec,
    TrainingSpec,
    read_sweep,
)
from zeroq_asr.config.plan_row import PlanPoint, PlanRow
from zeroq_asr.decoding.contexts import ScoredHypothesis
from zeroq_asr.decoding.decoder import BeamDecoder, CtcBeamDecoder
from zeroq_asr.decoding.hypothesis import Hypothesis
from zeroq_asr.deployment.bundle_recognizer import IntegerTransducer
from zeroq_asr.deployment.inspection import inspect_file
from zeroq_asr.deployment.recognizer import (
    BeamRecognizer,
    OnnxRecognizer,
    Recognizer,
    TorchRecognizer,
    open_recognizer,
)
from zeroq_asr.deployment.reexport import Reexported, reexport
from zeroq_asr.deployment.runtime_folders import RuntimeFolder, runtime_folder
from zeroq_asr.deployment.transducer import TokenRecognizer, TransducerRecognizer
from zeroq_asr.deployment.verify import Certificate, verify
from zeroq_asr.embedded import DemoFiles, copy_embedded, embedded_files, embedded_model
from zeroq_asr.errors import (
    AudioError,
    CalibrationError,
    CaptureError,
    CheckpointError,
    ConfigError,
    ExportError,
    ManifestError,
    ProofError,
    SynthesisError,
    UnsupportedModelError,
    UnsupportedOperatorError,
    VerificationError,
    ZeroqError,
    ZeroqWarning,
)
from zeroq_asr.integer.bundle import Bundle
from zeroq_asr.integer.float_parts import Island
from zeroq_asr.lowering.plan import Plan
from zeroq_asr.measure.bench import Benchmark, Timing, bench
from zeroq_asr.measure.compare import compare
from zeroq_asr.measure.comparison import Comparison
from zeroq_asr.measure.doctor import Diagnosis, diagnose
from zeroq_asr.measure.evaluate import Evaluation, evaluate
from zeroq_asr.measure.plans import FoundPlan, find_plan
from zeroq_asr.measure.qualities import ValueQuality
from zeroq_asr.measure.recognize import recognize, transcribe
from zeroq_asr.measure.report import QualityReport, report
from zeroq_asr.measure.sensitivity import LayerSensitivity, Sensitivity, sensitivity
from zeroq_asr.measure.sweep import Sweep, SweepRow, sweep
from zeroq_asr.model import AsrModel, TransducerModel
from zeroq_asr.pipeline.build import build
from zeroq_asr.pipeline.prepare import Prepared, prepare
from zeroq_asr.pipeline.quantize import Quantized, quantize
from zeroq_asr.pipeline.transducer import (
    PreparedTransducer,
    QuantizedTransducer,
    build_transducer,
    prepare_transducer,
    quantize_transducer,
)
from zeroq_asr.speech.frontend import Frontend, FrontendConfig
from zeroq_asr.speech.manifest import Utterance, read_manifest
from zeroq_asr.speech.tokenizer import Tokenizer
from zeroq_asr.speech.words import Transcription, Word
from zeroq_asr.synthesis.features import LayerAccount, SyntheticFeatures
from zeroq_asr.synthesis.synthesize import gaussian_noise, synthesize
from zeroq_asr.training.train import TrainingAccount

__all__ = [
    "AsrModel",
    "AudioError",
    "BeamDecoder",
    "BeamRecognizer",
    "BeamSpec",
    "Benchmark",
    "Bundle",
    "CalibrationError",
    "CalibrationSpec",
    "CaptureError",
    "Certificate",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "CtcBeamDecoder",
    "DemoFiles",
    "Diagnosis",
    "Evaluation",
    "ExportError",
    "FoundPlan",
    "Frontend",
    "FrontendConfig",
    "Hypothesis",
    "IntegerTransducer",
    "Island",
    "LabelSpec",
    "LayerAccount",
    "LayerSensitivity",
    "ManifestError",
    "OnnxRecognizer",
    "Plan",
    "PlanPoint",
    "PlanRow",
    "Prepared",
    "PreparedTransducer",
    "ProofError",
    "QualityReport",
    "QuantSpec",
    "Quantized",
    "QuantizedTransducer",
    "Recognizer",
    "Reexported",
    "RuntimeFolder",
    "ScoredHypothesis",
    "Sensitivity",
    "Sweep",
    "SweepModel",
    "SweepRow",
    "SweepSpec",
    "SynthesisError",
    "SynthesisSpec",
    "SyntheticFeatures",
    "Timing",
    "TokenRecognizer",
    "Tokenizer",
    "TorchRecognizer",
    "TrainingAccount",
    "TrainingSpec",
    "Transcription",
    "TransducerModel",
    "TransducerRecognizer",
    "UnsupportedModelError",
    "UnsupportedOperatorError",
    "Utterance",
    "ValueQuality",
    "VerificationError",
    "Word",
    "ZeroqError",
    "ZeroqWarning",
    "__version__",
    "bench",
    "build",
    "build_transducer",
    "compare",
    "copy_embedded",
    "diagnose",
    "embedded_files",
    "embedded_model",
    "evaluate",
    "find_plan",
    "gaussian_noise",
    "inspect_file",
    "load_checkpoint",
    "load_model",
    "open_recognizer",
    "prepare",
    "prepare_transducer",
    "quantize",
    "quantize_transducer",
    "read_manifest",
    "read_sweep",
    "recognize",
    "reexport",
    "report",
    "runtime_folder",
    "save_checkpoint",
    "sensitivity",
    "sweep",
    "synthesize",
    "transcribe",
    "verify",
]
