"""Training of integer programs without data: sections are reconstructed, the whole network is distilled.

``layers`` holds what is learned of a layer, ``sections`` runs parts of a program with gradients, ``trainer``
makes steps, ``features`` says what is trained on, and ``train`` puts them together.

Imported by: pipeline, cli.
Imports: errors, files, lines, progress, threads, config, registry, integer, graph, lowering, operators,
model, synthesis.
Never imports: deployment, pipeline, measure, cli.
"""
