"""Benchmarks: a grid of methods, data, training sizes and seeds, its results and its tables."""

from pyro_vmtl.runs.benchmark.command import run_benchmark

__all__ = ["run_benchmark"]
