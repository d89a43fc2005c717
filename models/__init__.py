"""The protocols: one file each, the lm-eval model classes of this package."""
