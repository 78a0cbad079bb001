"""The float graph: its nodes and values, the rewrites that make it tidy, and how it is written as float ONNX.

Imports: errors, registry, integer.
Never imports: capture, operators, lowering, calibration, deployment, measure, cli.
"""
