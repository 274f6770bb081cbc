"""``python -m selfstab.runs``: compute one run file."""

import sys

from selfstab.runs.compute import main

sys.exit(main())
