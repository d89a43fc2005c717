"""Compares runs question by question: intervals, paired tests, flips, cost."""
