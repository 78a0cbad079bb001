"""The float graph of a network: its nodes, their shapes, its rewrites and its spelling in float ONNX.

Imported by: capture, lowering, operators, calibration, deployment, pipeline, measure.
Imports: errors, registry, integer.
Never imports: architectures, model, capture, checkpoints, lowering, operators, embedded, synthesis,
calibration, deployment, pipeline, measure, cli.
"""
