"""Turns lm-eval's model arguments into a checked run."""
