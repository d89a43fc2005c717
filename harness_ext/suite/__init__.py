"""Suites: many evaluations described in one file, run on this machine and compared."""
