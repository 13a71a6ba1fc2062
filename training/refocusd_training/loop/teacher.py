"""A trained network whose output another network learns."""

from __future__ import annotations

from pathlib import Path

from refocusd.errors import BundleError
from refocusd.models.bundle import load_bundle
from refocusd_training.loop.files import CONFIG_FILE, WEIGHTS_FILE
from refocusd_training.loop.folder import load_weights, network_of_run
from refocusd_training.networks import RefocusNetwork, build_described


def load_teacher(folder: str) -> RefocusNetwork:
    """Load the network of a bundle or of a run, in inference mode and without gradients.

    Parameters
    ----------
    folder : str
        Folder of the bundle or run.

    Raises
    ------
    BundleError, ConfigError, InputError
        If there is no such network, or its weights do not fit.
    """
    if (Path(folder) / CONFIG_FILE).is_file():
        network = network_of_run(Path(folder))
    else:
        bundle = load_bundle(folder)
        if bundle.weights is None or bundle.network is None:
            raise BundleError(
                f"the bundle {bundle.folder} cannot be a teacher: it has no {WEIGHTS_FILE}, or does not "
                "describe its network; give one that refocusd trained, or the folder of a run"
            )
        found = build_described(bundle.network)
        assert isinstance(found, RefocusNetwork)
        network = found
        load_weights(network, bundle.weights)
    network.requires_grad_(requires_grad=False)
    return network.eval()
