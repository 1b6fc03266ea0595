"""`python -m tfsrv`."""

import sys

from tfsrv.cli import main

sys.exit(main())
