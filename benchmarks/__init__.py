"""Benchmarks of the whole and of its parts, and the guard that keeps them. See ``docs/performance.md``."""
