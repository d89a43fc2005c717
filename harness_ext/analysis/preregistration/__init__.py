"""What was planned before a run: the file that says so, and what it makes of a comparison."""
