"""The network at the scale of the blur on OpenVINO: two parts, compiled for frequent sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refocusd.config import EngineOptions
from refocusd.engines.runtimes.openvino import OpenVinoNetwork, OpenVinoScaleNetwork
from refocusd.errors import EngineError
from refocusd.models.bundle import load_bundle


@pytest.mark.parametrize("blurs", [((0.1, 0.3), (0.0, 0.1)), ((-0.1, 0.3), (-0.3, 0.1))])
def test_a_frame_that_comes_again_with_another_blur_is_deconvolved_once(
    blurs: tuple[tuple[float, float], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph in two parts gives the same results as whole, also for new frames of one size."""
    options = EngineOptions("openvino", "f32", threads=1)
    model = load_bundle("live-fluorescence")
    whole, parts = OpenVinoNetwork(model, options), OpenVinoScaleNetwork(model, options)
    seen = np.zeros((1, 3, 96, 80), np.float32)
    seen[0, 1] = blurs[0][0]
    for _ in range(2):  # the second time it is compiled for this size, if that is worthwhile
        parts.run(seen)
    computed: list[object] = []
    infer = OpenVinoNetwork._infer

    def counted(self: OpenVinoNetwork, request: object, *more: Any) -> None:
        computed.append(request)
        infer(self, request, *more)

    monkeypatch.setattr(OpenVinoNetwork, "_infer", counted)
    choose = np.random.default_rng(0)
    for _ in range(2):
        seen = np.empty((1, 3, 96, 80), np.float32)
        seen[:, 0] = choose.random((96, 80)) ** 3
        for told in blurs:
            seen[0, 1], seen[0, 2] = told
            expected = [answer.copy() for answer in whole.run(seen)]
            for ours, theirs in zip(parts.run(seen), expected, strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert computed.count(parts._deconvolution) == 2, "once for each of two frames"
    assert computed.count(parts._request) == 4


def test_sizes_that_come_often_are_computed_by_a_network_of_their_own() -> None:
    network = OpenVinoScaleNetwork(load_bundle("live-fluorescence"), EngineOptions(threads=1))
    any_size = network._request
    choose = np.random.default_rng(0)

    def request_for(told: float, side: int) -> object:
        seen = np.full((1, 3, side, 64), told, np.float32)
        seen[:, 0] = choose.random((side, 64))
        light, *_ = network.run(seen)
        assert light.shape[2:] == (side, 64)
        return network._request

    assert request_for(-0.3, 80) is any_size, "it may not come again"
    own = request_for(-0.3, 80)
    assert own is not any_size
    assert request_for(-0.1, 80) is request_for(0.1, 80) is own
    reduced = [request_for(0.0, 64) for _ in range(9)]
    assert reduced[:8] == [any_size] * 8, "its blur, and so its size, may change"
    assert reduced[8] not in (any_size, own)
    assert request_for(0.0, 48) is any_size
    assert request_for(0.0, 64) is reduced[8]
    assert request_for(-0.1, 80) is own
    for side in (96, 112, 128):
        assert request_for(-0.2, side) is any_size
        assert request_for(-0.2, side) not in (any_size, own)
    assert len(network._others) <= 3, "the oldest are forgotten"


def test_a_network_that_cannot_be_compiled_for_a_size_leaves_none_of_its_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = OpenVinoScaleNetwork(load_bundle("live-fluorescence"), EngineOptions(threads=1))
    seen = np.full((1, 3, 80, 64), 0.1, np.float32)
    seen[0, 1] = -0.3
    before = [answer.copy() for answer in network.run(seen)]
    compiled = OpenVinoNetwork._compile

    def full(self: OpenVinoNetwork, model: Any, **how: str) -> tuple[Any, Any]:
        if not how:  # the layers after deconvolution, which is already compiled
            raise RuntimeError("not enough memory")
        return compiled(self, model, **how)

    with monkeypatch.context() as patch:
        patch.setattr(OpenVinoNetwork, "_compile", full)
        with pytest.raises(EngineError, match="cannot compile"):
            network.run(seen)
    for again, first in zip(network.run(seen), before, strict=True):
        np.testing.assert_allclose(again, first, atol=1e-5)


def test_a_deconvolution_that_was_not_computed_is_not_that_of_an_older_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = EngineOptions("openvino", "f32", threads=1)
    network = OpenVinoScaleNetwork(load_bundle("live-fluorescence"), options)
    seen = np.full((1, 3, 96, 80), 0.1, np.float32)
    before = [answer.copy() for answer in network.run(seen)]
    with monkeypatch.context() as patch:
        # Like OpenVINO when it cannot allocate, without a message.
        patch.setattr(network, "_deconvolution", Silent(network._deconvolution))
        with pytest.raises(MemoryError):
            network.run(seen + np.float32(0.1))
    for again, first in zip(network.run(seen), before, strict=True):
        np.testing.assert_array_equal(again, first)


def test_in_bf16_the_deconvolution_is_not_rounded() -> None:
    model = load_bundle("live-fluorescence")
    try:
        rounded = OpenVinoScaleNetwork(model, EngineOptions("openvino", "bf16", threads=1))
    except EngineError:
        pytest.skip("this processor does not compute in bf16")
    exact = OpenVinoScaleNetwork(model, EngineOptions("openvino", "f32", threads=1))
    assert model.onnx is not None
    seen = np.load(model.onnx.with_name("test_input.npy"))[:1]
    (bank,), (expected,) = (network._inputs(seen)[1:] for network in (rounded, exact))
    np.testing.assert_array_equal(bank, expected)


class Silent:
    """A request that computes nothing."""

    def __init__(self, request: Any) -> None:
        self.get_tensor = request.get_tensor

    def infer(self, *_: object, **__: object) -> None:
        """Do nothing."""
