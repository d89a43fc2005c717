"""lm-eval's own gsm8k, with rows from a local folder where one is named."""
