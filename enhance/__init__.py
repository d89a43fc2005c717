"""Training data from a teacher: rationales for rows, and preferences between candidate answers (docs/enhance.md)."""
