"""How far a batch's channel statistics are from those a BatchNorm stored: one number per layer.

Every objective takes four tensors [C], means and *strictly positive* variances, of the batch
and as stored, and returns a scalar: the mean over channels, 0 exactly where they agree.  The
caller adds the layer's epsilon to both variances and leaves dead channels out
(``zeroq_asr.synthesis.statistics``), so no objective divides by zero.

A new objective is one decorated function here; its name is then valid in ``SynthesisSpec``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from zeroq_asr.errors import ConfigError

if TYPE_CHECKING:  # the command line lists their names, and torch takes seconds
    from torch import Tensor

Objective: TypeAlias = "Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]"

#: objectives by name
OBJECTIVES: dict[str, Objective] = {}


def objective(function: Objective) -> Objective:
    """Register ``function`` in ``OBJECTIVES`` under its own name."""
    OBJECTIVES[function.__name__] = function
    return function


def find_objective(name: str) -> Objective:
    """Return the objective called ``name``; ConfigError lists those that exist."""
    try:
        return OBJECTIVES[name]
    except KeyError:
        raise ConfigError("objective", f"{name!r} is not one of {', '.join(OBJECTIVES)}") from None


def within(
    slack: float, batch_mean: Tensor, batch_var: Tensor, stored_mean: Tensor, stored_var: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four tensors with the batch's moments moved towards the stored ones by up to ``slack``.

    The unit is the stored deviation for means, and the log of the deviation for deviations, so that
    any objective is 0 within the slack.
    """
    if slack == 0:
        return batch_mean, batch_var, stored_mean, stored_var
    off = (batch_mean - stored_mean) / stored_var.sqrt()
    wide = (batch_var / stored_var).log() / 2
    near_mean = batch_mean - off.clamp(-slack, slack) * stored_var.sqrt()
    return near_mean, batch_var * (-2 * wide.clamp(-slack, slack)).exp(), stored_mean, stored_var


@objective
def kl(batch_mean: Tensor, batch_var: Tensor, stored_mean: Tensor, stored_var: Tensor) -> Tensor:
    """KL(stored || batch) of Gaussians, in nats: the direction of Kim et al. (arXiv 2103.16827).

    ``KL(N(m, s2) || N(b, v)) = 1/2 [ln(v / s2) + (s2 + (m - b)^2) / v - 1]`` with m, s2 stored
    and b, v of the batch; it is ``kl_loss`` of the authors' code with variances for squared
    standard deviations.  Dividing by the *batch's* variance punishes a batch that is too narrow
    far more than one that is too wide, which is the side one wants to err on for ranges.
    """
    return 0.5 * (
        (batch_var / stored_var).log() + (stored_var + (stored_mean - batch_mean) ** 2) / batch_var - 1
    ).mean(dim=0)


@objective
def kl_reverse(batch_mean: Tensor, batch_var: Tensor, stored_mean: Tensor, stored_var: Tensor) -> Tensor:
    """KL(batch || stored), the other direction, ``1/2 [ln(s2 / v) + (v + (m - b)^2) / s2 - 1]``.

    Its denominators are constants, so its gradient stays of one size while the batch is still
    narrow: Adam reaches a smaller ``kl`` by it than by ``kl`` itself in the same number of steps.
    """
    return kl(stored_mean, stored_var, batch_mean, batch_var)


@objective
def jeffreys(batch_mean: Tensor, batch_var: Tensor, stored_mean: Tensor, stored_var: Tensor) -> Tensor:
    """The sum of both directions of KL (Jeffreys' divergence)."""
    moments = (batch_mean, batch_var, stored_mean, stored_var)
    return kl(*moments) + kl_reverse(*moments)


@objective
def moments(batch_mean: Tensor, batch_var: Tensor, stored_mean: Tensor, stored_var: Tensor) -> Tensor:
    """Squared differences of mean and standard deviation, in units of the stored deviation.

    ``((b - m) / s)^2 + (sqrt(v) / s - 1)^2``; ZeroQ (Cai et al., arXiv 2001.00281) has the same terms
    without the division by s, which lets wide channels drown narrow ones.
    """
    mean = (batch_mean - stored_mean) ** 2 / stored_var
    deviation = ((batch_var / stored_var).sqrt() - 1) ** 2
    return (mean + deviation).mean(dim=0)
