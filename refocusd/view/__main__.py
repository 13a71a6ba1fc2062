"""``python -m refocusd.view``: the live view's process, started by the daemon or by hand."""

from __future__ import annotations

import argparse
import logging
import sys

from refocusd.errors import RefocusdError
from refocusd.processes.background_log import log_to_stderr
from refocusd.view.command import add_view_flags, run_view


def main() -> int:
    """Serve until asked to stop."""
    parser = argparse.ArgumentParser(prog="python -m refocusd.view", description=__doc__)
    add_view_flags(parser)
    arguments = parser.parse_args()
    log_to_stderr("view")
    try:
        return run_view(arguments)
    except RefocusdError as error:
        logging.getLogger("refocusd.view").error("%s", error)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
