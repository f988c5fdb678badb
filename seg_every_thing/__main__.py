"""`python -m seg_every_thing <command>`, the same as `seg-every-thing <command>`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
