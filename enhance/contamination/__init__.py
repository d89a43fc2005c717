"""Finds training rows that contain documents of evaluation tasks: word for word, or with small changes."""
