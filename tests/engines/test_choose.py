"""Which engine is chosen, and why the others are not."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from refocusd.config import EngineOptions
from refocusd.engines import choose
from refocusd.engines.choose import available_backends, best_engine, build_engine
from refocusd.engines.engine import Engine
from refocusd.engines.runtimes.openvino import OpenVinoEngine
from refocusd.errors import EngineError
from refocusd.models.bundle import ModelBundle, load_bundle

QUICK = EngineOptions(threads=1, precision="f32")


def test_every_backend_that_does_not_work_says_why() -> None:
    found = available_backends()
    assert list(found) == ["tensorrt", "cuda", "openvino"]
    assert not found["openvino"]
    for why_not in found.values():
        assert not why_not or len(why_not) > 10


@pytest.mark.skipif(choose.count_cards() > 0, reason="there is an NVIDIA card")
def test_without_a_card_auto_is_openvino_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger=choose.__name__):
        engine = build_engine("live-nuclei", QUICK)
    assert isinstance(engine, OpenVinoEngine)
    engine.close()
    assert "backend tensorrt: there is no NVIDIA card" in caplog.text
    assert "backend cuda: there is no NVIDIA card" in caplog.text


@pytest.mark.skipif(choose.count_cards() > 0, reason="there is an NVIDIA card")
@pytest.mark.parametrize("backend", ["tensorrt", "cuda"])
def test_a_backend_asked_for_by_name_is_not_replaced_by_another(backend: str) -> None:
    options = EngineOptions(backend=backend)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r"install|card"):
        build_engine("live-nuclei", options)


def refuses(_bundle: ModelBundle, _options: EngineOptions) -> Engine:
    raise EngineError("the card has no memory")


def test_a_better_backend_that_does_not_take_the_bundle_makes_room_for_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(choose._ENGINES, "cuda", (__name__, "refuses"))
    bundle = load_bundle("live-nuclei")
    engine = best_engine(bundle, QUICK, {"cuda": "", "openvino": ""})
    assert isinstance(engine, OpenVinoEngine)
    engine.close()
    assert "the card has no memory" in caplog.text


@pytest.mark.skipif(choose.count_cards() > 0, reason="there is an NVIDIA card")
def test_looking_for_a_card_loads_no_torch() -> None:
    code = (
        "import sys; from refocusd.engines.choose import available_backends; available_backends(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
