"""Training recipes, one folder per recipe."""
