"""Where refocused frames go: one dataset on disk per refocused acquisition.

============  ==============================  =========================================
Protocol      implementation                  file
============  ==============================  =========================================
`Sink`        `NDTiffSink`: NDTiff 3.x        ``ndtiff.py`` (dataset and index),
              beside the raw dataset          ``ndtiff_stack.py`` (one TIFF of it),
                                              ``ndtiff_format.py`` (the bytes)
============  ==============================  =========================================

Beside them: ``space.py`` says what a dataset needs of the disk, ``lock.py``
keeps a second writer out, ``written_keys.py`` remembers which frames are there.

May import: `refocusd.frame`, `refocusd.errors`.
"""

from refocusd.sinks.ndtiff import NDTiffSink
from refocusd.sinks.sink import Sink
from refocusd.sinks.space import check_free_space, free_space_needed

__all__ = ["NDTiffSink", "Sink", "check_free_space", "free_space_needed"]
