"""Where the checkout and the installed programs are."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN_DIR = ROOT / ".run"
PROGRAMS = Path(sys.executable).parent
"""Where pip has put txninsightd, txninsight-sim and txninsight-replay."""
