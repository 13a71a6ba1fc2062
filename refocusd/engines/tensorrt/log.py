"""TensorRT's messages in refocusd's log."""

from __future__ import annotations

import logging
from typing import Any

__all__ = ["engine_log"]

log = logging.getLogger("refocusd.engines.tensorrt")


def engine_log(trt: Any) -> Any:
    """A logger for TensorRT that remembers the last error, as ``last_error``."""

    class EngineLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.last_error = message
                log.error("%s", message)
            elif severity == trt.ILogger.WARNING:
                log.warning("%s", message)
            else:
                log.debug("%s", message)

    return EngineLog()
