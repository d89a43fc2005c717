"""Runs a protocol over many questions: device queues, budget, progress and distributed ranks."""
