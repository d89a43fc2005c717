"""Analyses of runs: scores, comparisons, readable transcripts, estimates."""
