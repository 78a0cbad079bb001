"""Lowering: what stays in float, which format every value gets, and the integer program that comes of it.

Imports: config, errors, registry, graph, integer.
Never imports: capture, operators, calibration, deployment, measure, cli.
"""
