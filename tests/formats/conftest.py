"""What the tests of formats share."""

from __future__ import annotations

import pytest

from refocusd.formats.open_sink import SinkKind


@pytest.fixture(params=["ndtiff", "ome-zarr"])
def kind(request: pytest.FixtureRequest) -> SinkKind:
    """Kind of the dataset that is written."""
    chosen: SinkKind = request.param
    return chosen
