"""`python -m harness_ext` is `harness-ext`."""

from harness_ext.cli import run

run()
