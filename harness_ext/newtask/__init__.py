"""`harness-ext new-task`: the files of a task, made from its data."""
