"""From a float graph and ranges to an integer program: plans, widths, scales.

Imported by: operators, pipeline, measure.
Imports: errors, config, registry, integer, graph.
Never imports: checkpoints, operators, embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""
