"""The public names, and what importing the package does."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import zeroq_asr

PACKAGE = Path(zeroq_asr.__file__).parent

API = [
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


def test_all_is_the_documented_api() -> None:
    assert zeroq_asr.__all__ == API
    assert sorted(API) == API


@pytest.mark.parametrize("name", [name for name in API if name != "__version__"])
def test_public_names_have_docstrings(name: str) -> None:
    thing = getattr(zeroq_asr, name)
    documented = inspect.getdoc(thing)
    # a dataclass without a docstring is given its signature for one
    assert documented
    assert not documented.startswith(f"{name}(")
    if inspect.isclass(thing):
        for attribute, value in vars(thing).items():
            if inspect.isfunction(value) and not attribute.startswith("_"):
                assert inspect.getdoc(value), f"{name}.{attribute}"


def test_every_error_is_public() -> None:
    from zeroq_asr import errors

    classes = [name for name, value in vars(errors).items() if inspect.isclass(value)]
    assert set(classes) <= set(API)
    assert all(issubclass(getattr(errors, name), errors.ZeroqError | errors.ZeroqWarning) for name in classes)


def test_importing_every_module_prints_nothing() -> None:
    names = [module.name for module in pkgutil.walk_packages([str(PACKAGE)], "zeroq_asr.")]
    assert {"zeroq_asr.cli", "zeroq_asr.pipeline", "zeroq_asr.operators.activations.table"} <= set(names)
    code = "import importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _imports(path: Path) -> set[str]:
    """The packages that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


INTEGER = sorted((PACKAGE / "integer").rglob("*.py"))


@pytest.mark.parametrize("path", INTEGER, ids=[str(path.relative_to(PACKAGE)) for path in INTEGER])
def test_integers_need_neither_torch_nor_onnx(path: Path) -> None:
    """But for the backends named after them."""
    allowed = set()
    if path.parent.name == "backends":
        allowed = {name for name in ("torch", "onnx", "onnxruntime") if path.stem.startswith(name)}
    assert _imports(path) & {"torch", "onnx", "onnxruntime"} <= allowed


def test_importing_leaves_onnxruntime_for_those_who_need_it() -> None:
    # a tenth of a second of every command
    code = "import sys, zeroq_asr; zeroq_asr.quantize; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_importing_the_package_imports_nothing_else() -> None:
    """Torch takes seconds: it comes with the first name."""
    code = (
        "import sys, zeroq_asr, zeroq_asr.cli, zeroq_asr.cli.commands\n"
        "sys.exit(bool({'torch', 'numpy', 'onnx'} & {*sys.modules}) or 'quantize' not in dir(zeroq_asr))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = zeroq_asr.no_such_name
    assert not hasattr(zeroq_asr, "__no_such_name__")


def test_the_operators_that_ship_are_known_from_the_first_question() -> None:
    code = "from zeroq_asr.registry import INTEGER_OPERATORS; INTEGER_OPERATORS['conv_requant']"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
