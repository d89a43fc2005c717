"""The 20 bAbI tasks, answered as `Reasoning: … / Answer: …`: Weston et al. 2015, arXiv 1502.05698."""
