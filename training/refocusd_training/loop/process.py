"""One of several training processes: ``python -m refocusd_training.loop.process ORDER``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from refocusd.errors import RefocusdError


def main() -> int:
    """Train as the order says; what fails is written to the file that it names."""
    from refocusd_training.loop.processes import tied_to_parent

    tied_to_parent()
    order = json.loads(sys.argv[1])
    try:
        from refocusd_training.config import load_config
        from refocusd_training.loop.run import opener_of, train_prepared

        config = load_config(Path(order["config"]))
        train_prepared(
            config,
            opener_of(config, Path(order["data"])),
            Path(order["output"]),
            device=order["device"],
            resume=order["resume"],
            devices=order["devices"],
            rank=order["rank"],
        )
    except RefocusdError as error:
        said = json.dumps({"kind": type(error).__name__, "message": str(error)})
        Path(order["failure"]).write_text(said, encoding="utf-8")
        # Not an orderly end: the others may wait for this one in a collective operation.
        os._exit(error.exit_status)
    return 0


if __name__ == "__main__":
    sys.exit(main())
