"""Scores every answer of a run with the task's own filters and metrics, never with a separate grader."""
