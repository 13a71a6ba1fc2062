"""Lowers the priority of our processes, because the acquisition comes first."""

from __future__ import annotations

import ctypes
import os
import sys

BELOW_NORMAL_PRIORITY_CLASS = 0x4000


def yield_to_acquisition(niceness: int) -> None:
    """Lower this process's priority.

    Parameters
    ----------
    niceness : int
        Added to the process's nice value on POSIX.  Windows ignores it: the process gets the
        priority class below normal.
    """
    if sys.platform == "win32":
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        kernel.SetPriorityClass.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        kernel.SetPriorityClass(kernel.GetCurrentProcess(), BELOW_NORMAL_PRIORITY_CLASS)
    else:
        os.nice(niceness)
