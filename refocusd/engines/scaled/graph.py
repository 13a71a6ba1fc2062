"""A network at the scale of the blur as a bundle's ONNX graph, whatever runtime compiled it."""

from __future__ import annotations

from refocusd.engines.engine import EngineDescription
from refocusd.engines.network import Network
from refocusd.engines.scaled.network import Answer, Floats
from refocusd.errors import EngineError

_OUTPUTS = ("refocused", "interval", "blur")


class GraphScaleNetwork:
    """Runs a compiled graph; see `ScaleNetwork`.

    Parameters
    ----------
    network : Network
        With outputs ``refocused``, ``interval`` and ``blur``.

    Raises
    ------
    EngineError
        If one is missing.
    """

    def __init__(self, network: Network) -> None:
        missing = set(_OUTPUTS) - set(network.outputs)
        if missing:
            raise EngineError(
                f"{network.onnx} has no output {', '.join(sorted(missing))}; export the model again"
            )
        self._network = network
        self._places = [network.outputs.index(name) for name in _OUTPUTS]

    @property
    def description(self) -> EngineDescription:
        """What runs."""
        return self._network.description

    def run(self, seen: Floats) -> Answer:
        """Answer for one frame; see `ScaleNetwork.run`."""
        found = self._network.run(seen)
        light, interval, blur = (found[place] for place in self._places)
        if light.shape != (1, 1, *seen.shape[2:]):
            raise EngineError(
                f"{self._network.onnx} returned {light.shape} for {seen.shape}; it is no network at "
                "the scale of the blur"
            )
        return Answer(light[0, 0], interval[0], float(blur[0, 0]), float(blur[0, 1]))

    def close(self) -> None:
        """Free the device."""
        self._network.close()
