"""``python -m refocusd``: the same as the ``refocusd`` command."""

from __future__ import annotations

import sys

from refocusd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
