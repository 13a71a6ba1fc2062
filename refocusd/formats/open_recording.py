"""Opening a recording of any kind."""

from __future__ import annotations

from pathlib import Path

from refocusd.errors import InputError
from refocusd.formats.image_folder import open_files
from refocusd.formats.ndtiff.recording import NDTiffRecording, ndtiff_folder
from refocusd.formats.recording import MAX_FRAME_BYTES, Recording

__all__ = ["open_recording"]


def open_recording(path: str | Path, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> Recording:
    """Open a recording of any kind, and check all of it that can be checked unread.

    ====================================  ==========================================
    an NDTiff dataset                     the folder with ``NDTiff.index``, its
                                          parent if that holds just one, or one of
                                          its ``*_NDTiffStack*.tif``
    a TIFF, OME-TIFF, ImageJ or
    Micro-Manager stack, or a PNG         the file
    a folder of these                     the folder, or (BBBC006) its parent
    ====================================  ==========================================

    Parameters
    ----------
    path : str or Path
    max_frame_bytes : int
        A frame that claims to be larger is an error before memory is taken.

    Raises
    ------
    InputError
        If there is no such path, nothing in it is a recording, a file is
        damaged, or its frames are not of one shape and of type uint8 or uint16.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist: check the path of the recording")
        if (folder := ndtiff_folder(path)) is not None:
            return NDTiffRecording(folder, max_frame_bytes=max_frame_bytes)
        return open_files(path, max_frame_bytes)
    except (OSError, ValueError) as error:
        # A folder that may not be entered; a path that cannot be one.
        raise InputError(
            f"{path} cannot be read ({error}): check it and its permissions"
        ) from error
