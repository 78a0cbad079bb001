"""From what was prepared to an integer program: choose ranges, lower."""

from __future__ import annotations

from collections.abc import Mapping

from zeroq_asr.config import QuantSpec
from zeroq_asr.integer.program import Program, ValueInfo
from zeroq_asr.lowering.formats import Range
from zeroq_asr.lowering.lower import lower
from zeroq_asr.lowering.plan import Plan
from zeroq_asr.pipeline.prepare import Prepared, spec_and_plan
from zeroq_asr.threads import one_thread
from zeroq_asr.training.layers import RealLayer, with_real


@one_thread()
def build(
    prepared: Prepared,
    spec_or_plan: QuantSpec | Plan | None = None,
    *,
    fixed: Mapping[str, ValueInfo] | None = None,
) -> Program:
    """Lower a prepared network to an integer program of a format, by default that which it was prepared for.

    A plan gives every layer its grid and every value its bits; all else is as the network was prepared for.
    ``fixed``: formats of values that another program reads.
    Raises as ``Prepared.calibrated`` does, and ConfigError for a plan that does not fit the network.
    """
    spec, plan = spec_and_plan(prepared, spec_or_plan)
    return rebuilt(prepared, spec, plan, {}, {}, fixed)


def rebuilt(
    prepared: Prepared,
    spec: QuantSpec,
    plan: Plan | None,
    learned: Mapping[str, RealLayer],
    ranges: Mapping[str, Range],
    fixed: Mapping[str, ValueInfo] | None = None,
) -> Program:
    """Lower a prepared network with ``ranges``, and what was ``learned`` of layers, in place of its own."""
    calibration, model = prepared.calibrated(spec), prepared.model
    # of a plan only if they were observed, for another format
    by_feedback = spec.feedback or (plan is not None and plan.is_coarse and spec.rounding == "auto")
    means = calibration.means if spec.bias_correction else None
    return lower(
        with_real(prepared.graph, learned, means),
        {**calibration.ranges, **ranges},
        spec,
        channels=model.frontend.features,
        max_frames=prepared.deployment(spec).max_frames,
        means=means,
        covariances=calibration.covariances if by_feedback else None,
        waveform=model.frontend.is_waveform,
        plan=plan,
        fixed=fixed,
    )
