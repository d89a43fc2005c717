"""The connection to lm-eval: protocols become its models, and its requests become questions."""
