"""The protocols, one module each, with the lm-eval model classes of this package."""
