"""Fixtures of the page's tests: a stand-in daemon, a view of it, a page in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from view_standin import Scene, StandIn

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from view_pages import Bench, Shown


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    from view_pages import bench

    with bench(tmp_path_factory.mktemp("data")) as tools:
        yield tools


@pytest.fixture
def browser(tools: Bench) -> Browser:
    return tools.browser


@pytest.fixture
def daemon(tools: Bench) -> StandIn:
    return tools.daemon


@pytest.fixture
def port(tools: Bench) -> int:
    return tools.port


@pytest.fixture
def scene(tools: Bench) -> Scene:
    return tools.scene


@pytest.fixture
def shown(tools: Bench) -> Iterator[Shown]:
    with tools.shown() as shown:
        yield shown
