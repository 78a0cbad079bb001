"""The interpreters of integer programs: arrays, tensors, intervals, and ONNX graphs.

Imported by: graph, lowering, operators, deployment, pipeline, measure.
Imports: errors, lines, registry.
Never imports: speech, decoding, graph, architectures, model, capture, checkpoints, lowering, operators,
embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""
