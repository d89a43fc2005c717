"""Tasks for lm-eval, one folder per data set. `harness_ext.data` loads their rows."""
