"""A fuzzer for all that the command reads: see "How to fuzz" in CONTRIBUTING.md.

``mutations`` changes bytes, trees, archives and pickles; ``seeds`` makes the small whole inputs that are
changed; ``inputs*`` are the cases, a function a kind; ``oracle`` explains what was accepted; ``harness`` runs
a case in a process of its own and says which rule it broke.
"""
