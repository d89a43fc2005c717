"""Writes runs in the formats of other tools: Inspect logs, tables, data sets, experiment trackers."""
