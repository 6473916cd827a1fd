"""`python main.py` is the command `dip-jax`, for a copy of the repository that is not installed."""

import sys

from dip_jax.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
