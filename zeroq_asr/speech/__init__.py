"""What surrounds a network: audio, log-mel frontends, manifests, tokenizers.

Imported by: model, checkpoints, deployment, pipeline, measure, cli.
Imports: errors, files, lines.
Never imports: decoding, integer, graph, architectures, model, capture, checkpoints, lowering, operators,
embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""
