"""Recordings: frames on disk that are replayed, or caught up with, as if acquired now.

| file | what it knows |
|---|---|
| `recording` | what a recording is (`Recording`, `RecordingPlan`) |
| `opening` | opening one of any kind |
| `ndtiff` | `NDTiffReader`: a dataset by its axes, also while it is being written |
| `ndtiff_index` | where the frames of a dataset lie |
| `ndtiff_recording` | such a dataset as a recording |
| `folder` | image files as a recording: one, a folder, a BBBC006 plate |
| `image_file` | what all kinds of image file offer |
| `tiff`, `png` | the frames of one file |
| `arrangement`, `ome` | which page is which frame, by the metadata of the program that wrote it |
| `tiff_page` | one page: its promises held against the bytes, and its pixels |
| `ifd` | the directories of a TIFF, read strictly |

May import `refocusd.errors` and `refocusd.frame` only.
"""

from __future__ import annotations

from refocusd.sources.recording.ndtiff import NDTiffReader
from refocusd.sources.recording.opening import open_recording
from refocusd.sources.recording.recording import Recording, RecordingPlan

__all__ = ["NDTiffReader", "Recording", "RecordingPlan", "open_recording"]
