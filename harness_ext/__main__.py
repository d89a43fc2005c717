"""`python -m harness_ext` is `harness-ext`."""

import sys

from harness_ext.cli import main

sys.exit(main())
