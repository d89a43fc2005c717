"""Task files for lm-eval, one folder a data set. Where their rows come from: `harness_ext.data`."""
