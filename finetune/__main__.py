"""`python -m harness_ext.finetune`: the same as `harness-ext finetune`."""

import sys

from harness_ext.finetune.command import main

raise SystemExit(main(sys.argv[1:]))
