"""`harness-ext new-task`: creates the files of a task from its data."""
