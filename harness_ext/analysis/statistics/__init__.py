"""Intervals, paired tests and detectable differences: one procedure for everything that compares answers.

`compare`, `score`, `checkpoints`, `plan` and the benchmarks use these functions and no others. All of them are pure.
`benchmarks/intervals.py` measures them; docs/compare.md explains them.
"""
