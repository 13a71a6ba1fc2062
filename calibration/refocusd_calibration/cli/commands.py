"""`refocusd calibrate ...`: the calibration package's part of the command line.

Each measurement has its own file, which adds the sub-command.
"""

from __future__ import annotations

import argparse
from typing import Any

from refocusd_calibration.camera import command as camera_command
from refocusd_calibration.focus import command as focus_command
from refocusd_calibration.profile import show_command
from refocusd_calibration.psf import automatic_command
from refocusd_calibration.psf import command as psf_command

EXAMPLES = """examples:
  refocusd calibrate camera --output scope.json                    on the microscope
  refocusd calibrate camera --from-recording dark flat --output scope.json
  refocusd calibrate show scope.json --report scope.html
  refocusd calibrate compare january.json june.json                1 if it has drifted
"""


def register(commands: Any) -> None:
    """Add ``calibrate`` and its sub-commands to a parser.

    Each sets ``command`` to a callable that takes the parsed arguments and returns the
    exit status.
    """
    calibrate: argparse.ArgumentParser = commands.add_parser(
        "calibrate",
        help="measure the microscope: camera, focus, point spread function",
        description="Measures the microscope and writes its calibration profile.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inner = calibrate.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (camera_command, focus_command, psf_command, automatic_command, show_command):
        module.register(inner)
