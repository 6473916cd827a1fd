"""`python -m dip_jax` is the command `dip-jax`."""

import sys

from dip_jax.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
