"""Data from a teacher: rationales for training rows, and preferences between candidate answers. See docs/enhance.md."""
