"""Steps of training: parts of a batch side by side, their gradients summed in one order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zeroq_asr.threads import side_by_side
from zeroq_asr.training.layers import Integers, TrainedLayer
from zeroq_asr.training.processes import Processes

#: parts that a batch is computed in, whatever the number of threads: gradients are summed in one order
_PARTS = 2
#: layer → its integers
Trained = Mapping[str, Integers]
State = list[dict[str, Tensor]]
ALONE = Processes()


@dataclass(frozen=True)
class Rates:
    """Adam's step sizes."""

    weights: float
    steps: float
    biases: float


class Trainer:
    """Adam over layers of an integer program."""

    def __init__(self, layers: Sequence[TrainedLayer], rates: Rates) -> None:
        self.layers = layers
        rounded = [layer for layer in layers if layer.rounding]
        groups = [
            ([layer.latent for layer in rounded], rates.weights),
            ([layer.log_step for layer in rounded], rates.steps),
            ([layer.bias for layer in layers], rates.biases),
        ]
        self._rates = [rate for parameters, rate in groups if parameters]
        self.optimizer = torch.optim.Adam(
            [{"params": parameters, "lr": rate} for parameters, rate in groups if parameters]
        )

    def integers(self) -> dict[str, Integers]:
        """Return the integers of every layer, by the name of its result."""
        return {layer.name: layer.integers() for layer in self.layers}

    def step(
        self,
        batch: Sequence[Tensor],
        loss: Callable[[Sequence[Tensor], Trained], Tensor],
        slowed: float,
        together: Processes = ALONE,
    ) -> float:
        """Make one step on ``batch``, tensors of as many rows each; return the loss, a mean over the rows.

        ``slowed``: the factor on every step size.  ``together``: processes, each with a batch as large of its
        own, over which gradients are averaged.
        """
        count = len(batch[0])
        size = -(-count // min(_PARTS, count))
        integers = self.integers()
        leaves = {
            name: replace(
                one,
                real_weight=one.real_weight.detach().requires_grad_(),
                real_bias=one.real_bias.detach().requires_grad_(),
            )
            for name, one in integers.items()
        }
        wanted = [leaf for one in leaves.values() for leaf in (one.real_weight, one.real_bias)]
        starts = [*range(0, count, size)]
        found: dict[int, tuple[float, Sequence[Tensor | None]]] = {}

        def work(start: int) -> None:
            part = [one[start : start + size] for one in batch]
            value = loss(part, leaves) * (len(part[0]) / count)
            gradients = torch.autograd.grad(value, wanted, allow_unused=True)
            found[start] = float(value.detach()), gradients

        side_by_side(work, starts)
        outputs = [leaf for one in integers.values() for leaf in (one.real_weight, one.real_bias)]
        pairs: list[tuple[Tensor, Tensor]] = []
        for place, output in enumerate(outputs):
            given = [g for start in starts if (g := found[start][1][place]) is not None]
            if given and output.requires_grad:
                pairs.append((output, together.mean(sum(given[1:], start=given[0]))))
        self.optimizer.zero_grad()
        torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * slowed
        self.optimizer.step()
        for layer in self.layers:
            layer.settle()
        return sum(found[start][0] for start in starts)

    def state(self) -> State:
        """Return a copy of what was learned so far, on the CPU."""
        return [
            {name: value.to("cpu", copy=True) for name, value in layer.state_dict().items()}
            for layer in self.layers
        ]

    def restore(self, state: State) -> None:
        """Go back to what ``state`` gave."""
        for layer, values in zip(self.layers, state, strict=True):
            layer.load_state_dict(values)


def state_digest(state: State) -> str:
    """Return the SHA-256 of tensors, by their names; they are on the CPU."""
    made = hashlib.sha256()
    for values in state:
        for name, value in sorted(values.items()):
            made.update(name.encode() + value.contiguous().numpy().tobytes())
    return made.hexdigest()


def mean_over(rows: Sequence[Tensor], size: int, value: Callable[[Sequence[Tensor]], float]) -> float:
    """Return the mean over rows of ``value``, itself a mean over the rows of a batch of at most ``size``."""
    count = len(rows[0])
    starts = [*range(0, count, size)]
    found: dict[int, float] = {}

    def work(start: int) -> None:
        part = [one[start : start + size] for one in rows]
        found[start] = value(part) * len(part[0])

    side_by_side(work, starts)
    return sum(found[start] for start in starts) / count


def joined(rows: Tensor, size: int, work: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``work`` of every batch of at most ``size`` rows, side by side and joined again."""
    starts = [*range(0, len(rows), size)]
    found: dict[int, Tensor] = {}

    def one(start: int) -> None:
        found[start] = work(rows[start : start + size])

    side_by_side(one, starts)
    return torch.cat([found[start] for start in starts])
