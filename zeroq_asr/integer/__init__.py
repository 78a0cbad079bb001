"""Integer programs: what they are made of, what makes them well-formed, and their proof.

Nothing here imports torch or onnx, except the backends named after them.

Imported by: graph, lowering, operators, deployment, pipeline, measure.
Imports: config, errors, lines, registry.
Never imports: speech, decoding, graph, architectures, model, capture, checkpoints, lowering, operators,
embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""
