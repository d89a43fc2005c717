"""The report: runs as one self-contained page for a browser."""
