"""`python -m examples.bench`: what `mpcgen bench` does."""

import sys

from mpcgen.cli import main

main(["bench", *sys.argv[1:]], prog_name="mpcgen")
