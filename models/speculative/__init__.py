"""The parts of `speculative_pair`: acceptance policies, partial replies, units, and the trace of a generation."""
