"""Scores of everything said in a run, by the task's own filters and metrics; never by a grader of ours."""
