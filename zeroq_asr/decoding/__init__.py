"""From scores to tokens.

Imported by: capture, calibration, deployment, measure.
Imports: errors, files, lines, config.
Never imports: speech, integer, graph, architectures, model, capture, checkpoints, lowering, operators,
embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""
