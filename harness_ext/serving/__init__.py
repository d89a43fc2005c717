"""Servers that a run starts: how each engine is called, when it is ready, and how none of them outlives the run."""
