"""How many questions a claim needs, and what they cost: before the run."""
