"""Calibration: evening out a float graph's channels, observing it on features, and choosing ranges.

Imports: config, errors, progress, registry, graph.
Never imports: capture, operators, lowering, deployment, measure, cli.
"""
