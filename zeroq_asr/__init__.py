"""zeroq-asr: integer-only quantization of pretrained speech recognisers, without any data.

    import zeroq_asr as zq

    result = zq.quantize("stt_en_quartznet15x5.nemo", "quartznet.int8.onnx")
    print(zq.verify("quartznet.int8.onnx").program_sha256)

Several formats of one network share the slow part:

    prepared = zq.prepare(model, spec=zq.QuantSpec(), also=[zq.QuantSpec.parse_bits("w4a8")])
    files = [zq.quantize(prepared, f"{n}.onnx", spec=spec) for n, spec in enumerate(prepared.specs)]

Names here are the public API; the command line calls nothing else.  Operators, grids and packings of your own
are registered by ``register`` of ``zeroq_asr.registry`` and ``register_grid`` of ``zeroq_asr.integer.grid``,
which are imported as modules.
"""

from __future__ import annotations

# registers the operators that ship, before anything asks for one
import zeroq_asr.operators as _operators  # noqa: F401
from zeroq_asr._version import __version__
from zeroq_asr.checkpoints import load_checkpoint, save_checkpoint
from zeroq_asr.config import CalibrationSpec, QuantSpec, SynthesisSpec
from zeroq_asr.deployment.inspection import inspect_file
from zeroq_asr.deployment.recognizer import OnnxRecognizer, Recognizer, TorchRecognizer, open_recognizer
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
from zeroq_asr.measure.compare import Comparison, compare
from zeroq_asr.measure.doctor import Diagnosis, diagnose
from zeroq_asr.measure.evaluate import Evaluation, evaluate, transcribe
from zeroq_asr.measure.report import QualityReport, ValueQuality, report
from zeroq_asr.measure.sensitivity import LayerSensitivity, Sensitivity, sensitivity
from zeroq_asr.model import AsrModel
from zeroq_asr.pipeline import Prepared, Quantized, build, prepare, quantize
from zeroq_asr.speech.frontend import Frontend, FrontendConfig
from zeroq_asr.speech.manifest import Utterance, read_manifest
from zeroq_asr.speech.tokenizer import Tokenizer
from zeroq_asr.synthesis.synthesize import LayerAccount, SyntheticFeatures, gaussian_noise, synthesize

__all__ = [
    "AsrModel",
    "AudioError",
    "Benchmark",
    "Bundle",
    "CalibrationError",
    "CalibrationSpec",
    "CaptureError",
    "Certificate",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "DemoFiles",
    "Diagnosis",
    "Evaluation",
    "ExportError",
    "Frontend",
    "FrontendConfig",
    "Island",
    "LayerAccount",
    "LayerSensitivity",
    "ManifestError",
    "OnnxRecognizer",
    "Plan",
    "Prepared",
    "ProofError",
    "QualityReport",
    "QuantSpec",
    "Quantized",
    "Recognizer",
    "Sensitivity",
    "SynthesisError",
    "SynthesisSpec",
    "SyntheticFeatures",
    "Timing",
    "Tokenizer",
    "TorchRecognizer",
    "UnsupportedModelError",
    "UnsupportedOperatorError",
    "Utterance",
    "ValueQuality",
    "VerificationError",
    "ZeroqError",
    "ZeroqWarning",
    "__version__",
    "bench",
    "build",
    "compare",
    "copy_embedded",
    "diagnose",
    "embedded_files",
    "embedded_model",
    "evaluate",
    "gaussian_noise",
    "inspect_file",
    "load_checkpoint",
    "open_recognizer",
    "prepare",
    "quantize",
    "read_manifest",
    "report",
    "save_checkpoint",
    "sensitivity",
    "synthesize",
    "transcribe",
    "verify",
]
