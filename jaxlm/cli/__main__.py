"""`python -m jaxlm.cli`: the command without its script."""

import sys

from jaxlm.cli import console

sys.exit(console())
