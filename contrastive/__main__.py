"""`python -m contrastive COMMAND …`."""

import sys

from contrastive.cli import main

if __name__ == "__main__":
    sys.exit(main())
