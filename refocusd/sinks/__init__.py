"""Where refocused frames go: one dataset on disk per refocused acquisition.

============  ==============================  =========================================
Protocol      implementation                  file
============  ==============================  =========================================
`Sink`        `NDTiffSink`: NDTiff 3.x        ``ndtiff.py`` (dataset and index),
              beside the raw dataset          ``ndtiff_stack.py`` (one TIFF of it),
                                              ``ndtiff_format.py`` (the bytes)
`Sink`        `OmeZarrSink`: OME-Zarr 0.5,    ``omezarr.py`` (dataset),
              for viewers and servers         ``omezarr_format.py`` (list of frames),
                                              ``omezarr_description.py`` (when which
                                              document is renewed),
                                              ``omezarr_documents.py`` (the documents)
============  ==============================  =========================================

Beside them: ``opening.py`` starts and continues either kind, ``space.py`` says
what a dataset needs of the disk, ``lock.py`` keeps a second writer out,
``written_keys.py`` remembers which frames are there, ``export.py`` makes OME-TIFFs
of a dataset as ``export_plan.py`` decides.

May import: `refocusd.frame`, `refocusd.errors`.
"""

from refocusd.sinks.ndtiff import NDTiffSink
from refocusd.sinks.omezarr import OmeZarrSink
from refocusd.sinks.opening import SinkKind, append_sink, create_sink
from refocusd.sinks.sink import Sink
from refocusd.sinks.space import check_free_space, free_space_needed

__all__ = [
    "NDTiffSink",
    "OmeZarrSink",
    "Sink",
    "SinkKind",
    "append_sink",
    "check_free_space",
    "create_sink",
    "free_space_needed",
]
