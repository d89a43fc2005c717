"""`python -m harness_ext.enhance`: the same as `harness-ext enhance`."""

import sys

from harness_ext.enhance.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
