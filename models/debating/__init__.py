"""The parts of `debate`."""
