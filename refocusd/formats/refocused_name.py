"""How refocused datasets are named, and recognised by their names."""

from __future__ import annotations

import re

SUFFIX = "_refocused"
#: The end of a refocused dataset's name: a second run beside the first has its id there.
REFOCUSED_NAME = re.compile(rf"{SUFFIX}(_[0-9a-f]{{8}})?(\.ome)?(\.zarr)?$")
