"""lm-eval's own gsm8k task, with rows from a local folder if `HARNESS_EXT_DATA` is set."""
