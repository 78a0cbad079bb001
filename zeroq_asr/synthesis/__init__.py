"""Features without data: optimised until a network's normalizations see what their statistics promise.

Imported by: deployment, pipeline, measure, cli.
Imports: errors, files, lines, progress, threads, config, speech, model.
Never imports: operators, embedded, calibration, deployment, pipeline, measure, cli.
"""
