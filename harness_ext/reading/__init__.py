"""Everything that reads what a model wrote."""
