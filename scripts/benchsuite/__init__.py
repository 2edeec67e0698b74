"""The benchmark suites behind `scripts/bench`; benchmarks/README.md says how rows are measured.

Every measured piece of work runs in a process of its own (`piece`). The process that collects the rows imports neither
jax nor torch, so it holds no memory of an accelerator and no threads.
"""
