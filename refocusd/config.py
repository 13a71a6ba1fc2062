"""Settings: defaults < ``refocusd.toml`` < environment ``REFOCUSD_*`` < flags.

An unknown key is an error, in the file and in the environment: a setting that
is silently ignored is worse than none.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import platformdirs

from refocusd.errors import ConfigError

__all__ = [
    "Attach",
    "Backend",
    "EngineOptions",
    "Policy",
    "Precision",
    "Settings",
    "SinkKind",
    "load_settings",
]

Backend = Literal["auto", "tensorrt", "cuda", "openvino", "identity"]
Precision = Literal["auto", "f32", "f16", "bf16", "int8"]
Policy = Literal["defer", "complete"]
SinkKind = Literal["ndtiff", "ome-zarr"]
Attach = Literal["auto", "on", "off"]

#: Variables that share the prefix but are not settings.
NOT_SETTINGS = {
    "REFOCUSD_CACHE",  # folder of compiled engines
    "REFOCUSD_FUZZ_ROUNDS",
    "REFOCUSD_MODELS",  # folder of added model bundles
    "REFOCUSD_TEST_BRIDGE",
    "REFOCUSD_TEST_DATA",
}


def _user_ledgers() -> str:
    return str(Path(platformdirs.user_data_dir("refocusd", appauthor=False)) / "ledgers")


def _user_output() -> str:
    return str(Path.home() / "refocusd")


def _user_keys() -> str:
    return str(Path(platformdirs.user_config_dir("refocusd", appauthor=False)) / "keys")


def _user_calibrations() -> str:
    return str(Path(platformdirs.user_config_dir("refocusd", appauthor=False)) / "calibrations")


class EngineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is compiled and run; the same for every model of a worker.

    Parameters
    ----------
    backend, precision, threads, tile_px, tile_batch, engine_mib
        As in `Settings`.
    """

    backend: Backend = "auto"
    precision: Precision = "auto"
    threads: int = 0
    tile_px: int = 0
    tile_batch: int = 0
    engine_mib: int = 0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `refocusd run` does, and how much of the machine it may take.

    Parameters
    ----------
    endpoint : str
        Where the daemon listens.  Loopback only.
    model : str
        Name of a shipped bundle, or of one in the user's model folder (`refocusd models add`), or
        the path of a bundle's folder.
    channel_models : dict of str to str
        Channels that have a model of their own, by name; all others take `model`.
    backend : {"auto", "tensorrt", "cuda", "openvino", "identity"}
        What runs the model; ``auto`` takes the best that is installed and works; ``identity``
        returns frames as they are (to measure the path).
    precision : {"auto", "f32", "f16", "bf16", "int8"}
        ``auto`` is f16 on a GPU; on a CPU bf16 where the processor has it, else int8 where the
        model ships it, else f32.
    threads : int
        Threads of a CPU engine; 0 leaves one core to the acquisition where there are more than two.
    tile_px : int
        Side of the tiles that larger frames are cut into; 0: as measured best on this machine.
    tile_batch : int
        Tiles that go through the network at once; 0: as measured best.
    engine_mib : int
        Cap of the memory that an engine works in, MiB; 0: as the backend deems safe.
    workers : int
        Worker processes; 0 where only workers on other hosts are to be used.
    policy : {"defer", "complete"}
        What happens when the engine is slower than the camera.  ``defer``: the newest frame
        goes first and the rest is caught up from raw when the workers are idle.  ``complete``:
        every frame in order.
    sink : {"ndtiff", "ome-zarr"}
        Format of the refocused datasets.
    pick_up : bool
        At the start, finish acquisitions that an earlier daemon left unfinished.
    listen : str
        Where workers on other hosts connect, for example ``tcp://192.168.0.5:8752``; needs keys
        (``refocusd keys new``).  Empty: nowhere.
    keys : str
        Folder of the keys for `listen`.
    calibrations : str
        Folder of the calibration profiles (``*.json``); which one is a frame's its metadata say.
    view : bool
        Serve the live view, a web page of this computer.
    view_port : int
        Where: ``http://127.0.0.1:8750/``.
    advise_focus : bool
        Tell how far, and in which direction, the stage is from focus.
    correct_focus : bool
        Let sources that allow it move the stage by that advice.  Both sides must want it.
    follow : list of str
        Folders where datasets appear that nobody hooked; they are followed while they grow.
    studio : {"auto", "on", "off"}
        Acquisitions started in Micro-Manager's GUI.  ``auto``: attach when its bridge answers;
        ``on``: say so as long as it does not.
    live : bool
        Show Micro-Manager's live mode and snaps, refocused, in the view.
    bridge_port : int
        Where Micro-Manager's bridge listens on this computer.
    studio_output : str
        Folder for the refocused frames of acquisitions that Micro-Manager does not save.
    ring_mib : int
        Shared memory for frames in flight, MiB.  The cap of all acquisitions together.
    source_mib : int
        The cap of one acquisition, MiB; 0 for that of all.
    inline : bool
        Exchange pixels with workers through the socket instead of shared memory (slower).
    skip_channels : list of str
        Channels that are not refocused (brightfield, say), by name: their frames are ``skipped``.
    pass_in_focus : bool
        Write frames that are in focus already as they are.
    ledgers : str
        Folder of the ledgers (one SQLite file an acquisition); must lie on a local disk.
    reserve_mib : int
        Disk space that is left free, MiB.
    task_timeout_s : float
        A worker that holds one frame longer is taken for hung and replaced.
    source_timeout_s : float
        A source that is not heard for so long is taken for gone; its raw data is caught up.
    stop_timeout_s : float
        How long a stop may take; what is not done by then stays pending.
    """

    endpoint: str = "tcp://127.0.0.1:8751"
    model: str = "live-nuclei"
    channel_models: dict[str, str] = {}
    backend: Backend = "auto"
    precision: Precision = "auto"
    threads: int = 0
    tile_px: int = 0
    tile_batch: int = 0
    engine_mib: int = 0
    workers: int = 1
    policy: Policy = "defer"
    sink: SinkKind = "ndtiff"
    pick_up: bool = True
    listen: str = ""
    keys: str = msgspec.field(default_factory=_user_keys)
    calibrations: str = msgspec.field(default_factory=_user_calibrations)
    view: bool = True
    view_port: int = 8750
    advise_focus: bool = False
    correct_focus: bool = False
    follow: list[str] = []
    studio: Attach = "auto"
    live: bool = True
    bridge_port: int = 4827
    studio_output: str = msgspec.field(default_factory=_user_output)
    ring_mib: int = 512
    source_mib: int = 0
    inline: bool = False
    skip_channels: list[str] = []
    pass_in_focus: bool = True
    ledgers: str = msgspec.field(default_factory=_user_ledgers)
    reserve_mib: int = 512
    task_timeout_s: float = 60.0
    source_timeout_s: float = 30.0
    stop_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what cannot work, by name."""
        limits: tuple[tuple[str, float, float, float], ...] = (
            ("threads", self.threads, 0, 256),
            ("tile_px", self.tile_px, 0, 1 << 14),
            ("tile_batch", self.tile_batch, 0, 64),
            ("engine_mib", self.engine_mib, 0, 1 << 20),
            ("workers", self.workers, 0 if self.listen else 1, 64),
            ("view_port", self.view_port, 0, 65535),
            ("bridge_port", self.bridge_port, 1, 65535),
            ("ring_mib", self.ring_mib, 1, 1 << 16),
            ("source_mib", self.source_mib, 0, self.ring_mib),
            ("reserve_mib", self.reserve_mib, 0, 1 << 30),
            ("task_timeout_s", self.task_timeout_s, 0.1, 86400),
            ("source_timeout_s", self.source_timeout_s, 1, 86400),
            ("stop_timeout_s", self.stop_timeout_s, 0.1, 86400),
        )
        for name, value, low, high in limits:
            if not low <= value <= high:
                raise ConfigError(f"{name} = {value}: it must lie between {low} and {high}")
        if both := sorted(set(self.channel_models) & set(self.skip_channels)):
            raise ConfigError(
                f"channel {both[0]} has a model (channel_models) and is skipped (skip_channels): "
                "take it out of one of them"
            )
        host, _, port = self.endpoint.removeprefix("tcp://").rpartition(":")
        valid_port = port.isascii() and port.isdigit() and int(port) < 65536
        loopback = host in ("127.0.0.1", "localhost")
        if not (self.endpoint.startswith("tcp://") and loopback and valid_port):
            raise ConfigError(
                f"endpoint = {self.endpoint!r}: the daemon listens on the loopback interface only, "
                'for example "tcp://127.0.0.1:8751"'
            )

    @property
    def models(self) -> dict[str, str]:
        """Name of the model of each channel that has one of its own; "" is for all others.

        None but "" for the identity, which is of no model.
        """
        own = {} if self.backend == "identity" else self.channel_models
        return {"": self.model, **own}

    @property
    def engine_options(self) -> EngineOptions:
        """The part that concerns engines."""
        return EngineOptions(
            self.backend,
            self.precision,
            self.threads,
            self.tile_px,
            self.tile_batch,
            self.engine_mib,
        )


def load_settings(
    file: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The settings in force.

    Parameters
    ----------
    file : path, optional
        A TOML file with any of the keys of `Settings`.
    flags : mapping, optional
        Values from the command line; None means "not given".
    environment : mapping, optional
        `os.environ` unless given; ``REFOCUSD_RING_MIB=256`` sets ``ring_mib``.

    Raises
    ------
    ConfigError
        For a missing file, unknown key, wrong type or value out of range.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values.update(_from_file(Path(file)))
    known = Settings.__struct_fields__
    source = os.environ if environment is None else environment
    for variable, text in source.items():
        if not variable.startswith("REFOCUSD_") or variable in NOT_SETTINGS:
            continue
        name = variable.removeprefix("REFOCUSD_").lower()
        if name not in known:
            raise ConfigError(
                f"the environment variable {variable} is no setting of refocusd; it knows "
                + ", ".join(f"REFOCUSD_{key.upper()}" for key in known)
            )
        values[name] = _plain(text)
    values.update({name: value for name, value in (flags or {}).items() if value is not None})
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        where = f" (file {file})" if file is not None else ""
        raise ConfigError(f"settings{where}: {error}; known keys: {', '.join(known)}") from error


def _from_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings file {path} is not TOML: {error}") from error


def _plain(text: str) -> Any:
    """A variable's text as TOML would read it, or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
