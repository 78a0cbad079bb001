"""The loss of a transducer: −log of all paths that spell the targets (Graves, arXiv 1211.3711).

A path walks a lattice of frames and places: a blank goes on to the next frame, a token to the next place,
and the last blank leaves the lattice at the last frame.  Nodes whose frame and place have the same sum depend
on nothing but those of the sum before, so that one diagonal is computed at a time, of all utterances.

Shapes: B batch, T frames, U targets, V tokens without the blank, which is the class V; N = T + U diagonals.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: the logarithm of what is no probability: below all sums of others, and sums of it are still finite
_NEVER = -1e30


def rnnt_loss(scores: Tensor, targets: Tensor, lengths: Tensor, sizes: Tensor) -> Tensor:
    """Return −log p(targets) [B] of scores [B, T, U + 1, V + 1] before the softmax.

    ``targets`` [B, U] holds tokens 0 … V − 1; ``lengths`` [B] says how many frames count, 1 … T, ``sizes``
    [B] how many targets, 0 … U.  What lies behind them is not read, but targets are tokens there, too.

    Raises ValueError where shapes or numbers are others.
    """
    _require(scores, targets, lengths, sizes)
    batch, frames, places, _ = scores.shape
    blanks, labels = _Chosen.apply(scores, targets)
    # what leads to a place: nothing to the first
    labels = F.pad(labels, (1, 0), value=_NEVER)
    diagonals = frames + places - 1
    frame = torch.arange(diagonals)[:, None] - torch.arange(places)
    within = (frame >= 0) & (frame < frames)
    index = frame.clamp(0, frames - 1).expand(batch, -1, -1)
    blanks = blanks.gather(1, index).masked_fill(~within, _NEVER).unbind(1)
    labels = labels.gather(1, index).masked_fill(~within, _NEVER).unbind(1)
    start = scores.new_full((batch, places), _NEVER)
    start[:, 0] = 0
    reached = [start]
    for n in range(1, diagonals):
        by_blank = reached[-1] + blanks[n - 1]
        by_label = F.pad(reached[-1][:, :-1], (1, 0), value=_NEVER) + labels[n]
        reached.append(torch.logaddexp(by_blank, by_label))
    left = torch.stack(reached) + torch.stack(blanks)
    return -left[lengths - 1 + sizes, torch.arange(batch), sizes]


class _Chosen(torch.autograd.Function):
    """Log-probabilities of the blank [B, T, U + 1] and of each place's target [B, T, U].

    By hand, as nothing else of the softmax is needed: its gradient is one tensor of the scores' size in place
    of four.
    """

    @staticmethod
    def forward(ctx, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        index = targets[:, None, :, None].expand(-1, scores.shape[1], -1, 1)
        total = scores.logsumexp(-1)
        ctx.save_for_backward(scores, total, index)
        return scores[..., -1] - total, scores[:, :, :-1].gather(-1, index)[..., 0] - total[:, :, :-1]

    @staticmethod
    def backward(ctx, of_blanks: Tensor, of_labels: Tensor) -> tuple[Tensor, None]:
        scores, total, index = ctx.saved_tensors
        sums = of_blanks + F.pad(of_labels, (0, 1))
        gradient = (scores - total[..., None]).exp_().mul_(-sums[..., None])
        gradient[..., -1] += of_blanks
        gradient[:, :, :-1].scatter_add_(-1, index, of_labels[..., None])
        return gradient, None


def _require(scores: Tensor, targets: Tensor, lengths: Tensor, sizes: Tensor) -> None:
    """Raise ValueError where the operands are not of one batch, or count what is not there."""
    if scores.ndim != 4 or targets.ndim != 2:
        raise ValueError(f"scores {list(scores.shape)} and targets {list(targets.shape)} want 4 and 2 axes")
    batch, frames, places, classes = scores.shape
    if targets.shape != (batch, places - 1) or lengths.shape != (batch,) or sizes.shape != (batch,):
        given = [list(one.shape) for one in (targets, lengths, sizes)]
        raise ValueError(f"targets, lengths and sizes are {given}, scores {list(scores.shape)}")
    for name, values, low, high in (
        ("targets", targets, 0, classes - 2),
        ("lengths", lengths, 1, frames),
        ("sizes", sizes, 0, places - 1),
    ):
        if values.numel() and not low <= int(values.min()) <= int(values.max()) <= high:
            raise ValueError(f"{name} are {int(values.min())} to {int(values.max())}, not {low} to {high}")
