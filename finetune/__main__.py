"""`python -m harness_ext.finetune` is `harness-ext finetune`."""

import sys

from harness_ext.finetune.cli import main

raise SystemExit(main(sys.argv[1:]))
