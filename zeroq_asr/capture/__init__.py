"""From a module to a float graph: the walk over what ``torch.export`` makes of it.

Importing this folder registers the handlers of what is no operator of the graph: lengths, masks, sizes,
constants and moves.

Imported by: operators, deployment, pipeline, measure.
Imports: errors, lines, registry, decoding, graph, architectures.
Never imports: model, checkpoints, lowering, operators, embedded, synthesis, calibration, deployment,
pipeline, measure, cli.
"""

from zeroq_asr.capture import constants, lengths, masks, moves, sizes

__all__ = ["constants", "lengths", "masks", "moves", "sizes"]
