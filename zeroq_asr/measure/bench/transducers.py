"""Every form of a transducer's checkpoint, each ready to run: in float, in integers, and by another tool.

What is decoded takes its time, so integers are to say what the float network says: they are calibrated on
clips that come with the package, as it is such speech that all are timed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from zeroq_asr.capture.transducer import TransducerGraphs, capture_transducer
from zeroq_asr.config import CalibrationSpec, QuantSpec
from zeroq_asr.deployment.export import export_bundle
from zeroq_asr.deployment.float_files import File, held
from zeroq_asr.deployment.float_transducer import FloatTransducer, export_float_transducer
from zeroq_asr.deployment.machine import Machine
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.embedded import embedded_files
from zeroq_asr.measure.bench.contenders import Contender, absent, full_range_target
from zeroq_asr.measure.bench.parts import ENCODER, RECOGNISER, STEPS, of_bundle, of_parts
from zeroq_asr.measure.onnxruntime_quantizers import attempt, ort_dynamic, preprocess
from zeroq_asr.model import TransducerModel
from zeroq_asr.pipeline import build_transducer, prepare_transducer
from zeroq_asr.pipeline.transducer import deployment_of
from zeroq_asr.progress import Progress, silent

#: the contender that the others are compared with
FLOAT = "float"
#: clips that integers are calibrated on
_CLIPS = 4


def of_transducer(
    model: TransducerModel,
    machine: Machine,
    *,
    folder: Path,
    spec: QuantSpec | None = None,
    peers_only: bool = False,
    progress: Progress = silent,
) -> list[Contender]:
    """Return every contender of a transducer's checkpoint; with ``peers_only`` those that are not ours.

    ``folder``: where float models lie that are too large to be held, as long as contenders are run.
    ``spec``: the format, of 8 bits, of which each row sets the target itself.  Raises ConfigError for another
    format, and UnsupportedOperatorError for an operator without an integer lowering.
    """
    progress("build", 0, 2)
    spec = spec or QuantSpec()
    graphs = capture_transducer(model.network, model.example_input(), model.name)
    deployment = deployment_of(model, spec.max_seconds)
    made = export_float_transducer(graphs, deployment)
    files: dict[str, File] = {part: held(one, folder) for part, one in made.items()}
    found = _floats(FLOAT, "float", files, graphs, deployment)
    if not peers_only:
        found += _integers(model, machine, spec, graphs)

    def dynamic() -> dict[str, bytes]:
        made = export_float_transducer(graphs, deployment, quantizable=True)
        return {part: ort_dynamic(preprocess(one)) for part, one in made.items()}

    label, dialect = "ORT dynamic", "ort dynamic"
    smaller, reason = attempt(dynamic)
    if smaller is not None:
        found += _floats(label, dialect, smaller, graphs, deployment)
    else:
        rows = (RECOGNISER, ENCODER, *STEPS)
        found += [replace(absent(label, "onnxruntime", dialect, "cpu", reason), part=part) for part in rows]
    progress("build", 2, 2)
    return found


def _floats(
    label: str, dialect: str, files: Mapping[str, File], graphs: TransducerGraphs, deployment: Deployment
) -> list[Contender]:
    def opened(threads: int) -> FloatTransducer:
        return FloatTransducer(files, graphs, deployment, threads, spin=False)

    return of_parts(label, dialect, files, opened)


def _integers(
    model: TransducerModel, machine: Machine, spec: QuantSpec, graphs: TransducerGraphs
) -> list[Contender]:
    any_x86 = replace(spec, target="x86-any")
    prepared = prepare_transducer(
        model,
        spec=any_x86,
        calibration=CalibrationSpec(str(embedded_files().calibration), limit=_CLIPS),
        graphs=graphs,
        check_ranges=False,
    )
    bundle, deployment = build_transducer(prepared), prepared.deployment()
    ways = [("fused W8", bundle, "fused", "x86-any"), ("strict W8", bundle, "strict", "x86-any")]
    if machine.exact_at_full_range:
        target = full_range_target(machine)
        full = build_transducer(prepared, replace(any_x86, target=target))
        ways.insert(1, ("fused W8 at full range", full, "fused", target))
    found = []
    for label, programs, dialect, target in ways:
        made = export_bundle(programs, deployment, dialect, target)
        files = {part: one.to_bytes() for part, one in made.items()}
        found += of_bundle(label, dialect, files)
    return found
