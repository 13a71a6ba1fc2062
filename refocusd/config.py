"""Settings: defaults < ``refocusd.toml`` < environment ``REFOCUSD_*`` < flags.

Each setting is declared once, as a field of `EngineOptions` or `Settings`: its type, limits, unit
(the end of its name), default and, below it, its meaning.  The checks, the environment variables,
the flags (`refocusd.cli.flags`), the output of ``refocusd config`` and ``config init``, and the
guide's table (``.ci/settings_table.py`` updates it) are all made from these declarations
(`SETTINGS`).

An unknown key is an error, in the file and in the environment: a setting that
is silently ignored is worse than none.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import itertools
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
import platformdirs

from refocusd.errors import ConfigError
from refocusd.files import read_limited
from refocusd.toml_value import toml_value

Backend = Literal["auto", "tensorrt", "cuda", "openvino", "deconvolution", "identity"]
Precision = Literal["auto", "f32", "f16", "bf16", "int8"]
Policy = Literal["defer", "complete"]
SinkKind = Literal["ndtiff", "ome-zarr"]
Untrusted = Literal["mark", "pass", "deconvolve", "skip"]
#: Backends that run no model; records name the backend where they would name the model.
WITHOUT_MODEL: frozenset[Backend] = frozenset({"deconvolution", "identity"})
Attach = Literal["auto", "on", "off"]

DEFAULT_ENDPOINT = "tcp://127.0.0.1:8751"
DEFAULT_VIEW_PORT = 8750

PREFIX = "REFOCUSD_"
#: Variables that share the prefix but are not settings.
NOT_SETTINGS = {
    "REFOCUSD_CACHE",  # folder of compiled engines
    "REFOCUSD_FUZZ_ROUNDS",
    "REFOCUSD_KEY",  # key of another user's daemon (`refocusd keys share`)
    "REFOCUSD_MODELS",  # folder of added model bundles
    "REFOCUSD_TEST_BRIDGE",
    "REFOCUSD_TEST_DATA",
    "REFOCUSD_USER_KEYS",  # folder of this user's keys for daemons of this computer
}
#: A file with every setting explained has 7 KiB.
MAX_FILE_NBYTES = 1 << 16
#: Most dots in a line of the file: tomllib's time for a dotted key grows with the square of its parts.
_MAX_DOTS = 1000
#: Longer values are cut in messages.
_SHOWN_CHARS = 200

_UNITS = {"mib": "MiB", "px": "px", "s": "s", "um": "um"}
_BACKSLASHES = (
    '; in "..." a backslash starts an escape: write a Windows path with slashes ("C:/data") or in '
    "single quotes ('C:\\data')"
)


class Limits(NamedTuple):
    """Range of a number, both ends included."""

    low: float
    high: float


class Setting(NamedTuple):
    """The declaration of one setting.

    Parameters
    ----------
    name : str
    type : type
        For example ``list[str]``.
    limits : Limits or None
        Range of a number; None if it has none.
    """

    name: str
    type: Any
    limits: Limits | None

    @property
    def help(self) -> str:
        """What it does, for the help text, the example file and the guide."""
        return _helps()[self.name]

    @property
    def flag(self) -> str:
        """Its flag on the command line; empty for tables, which only the file can hold."""
        return "" if get_origin(self.type) is dict else "--" + self.name.replace("_", "-")

    @property
    def unit(self) -> str:
        """Unit of a number, from the end of the setting's name; empty if it has none."""
        return _UNITS.get(self.name.rpartition("_")[2], "")

    @property
    def choices(self) -> tuple[str, ...]:
        """All values it may have, if they are words from a fixed list; otherwise empty."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def kind(self) -> str:
        """Its type, unit and limits in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        kinds = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            str: "text",
            list: 'a list of texts, ["a", "b"]',
            dict: 'a table of texts, { a = "b" }',
        }
        kind = kinds[get_origin(self.type) or self.type]
        if self.limits is None:
            return kind
        return f"{kind}, {self.limits.low} to {self.limits.high} {self.unit}".rstrip()

    def check(self, value: Any) -> None:
        """Refuse a value of the right type that is not allowed, or holds control characters.

        Raises
        ------
        ConfigError
        """
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.name} = {_short(value)}: it must be {self.kind}")
        if self.limits and not self.limits.low <= value <= self.limits.high:
            low, high = self.limits
            raise ConfigError(
                f"{self.name} = {_short(value)}: it must lie between {low} and {high}"
            )
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        for text in map(str, parts if isinstance(parts, list) else [parts]):
            if control := re.search(r"[\x00-\x1f\x7f]", text):
                raise ConfigError(
                    f"{self.name} = {_short(text)} holds the control character "
                    f"{control[0]!r}{_BACKSLASHES}"
                )

    def from_text(self, text: str) -> Any:
        """Value of an environment variable: its text read as TOML if possible, or the text itself."""
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            return text
        # Without quotes, 5 may be the name of a model.
        return text if (self.type is str or self.choices) and not isinstance(value, str) else value


def _short(value: Any) -> str:
    """A value as messages show it: cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


@functools.cache
def _declared(kind: type) -> dict[str, Setting]:
    """The settings that a struct or a dataclass declares, by name."""
    settings = {}
    for name, value in get_type_hints(kind, include_extras=True).items():
        limited = get_origin(value) is Annotated
        settings[name] = Setting(name, *(get_args(value) if limited else (value, None)))
    return settings


def check_settings(settings: Any) -> None:
    """Refuse a value that is not one of its setting's choices, or is outside its limits.

    Parameters
    ----------
    settings : msgspec.Struct or dataclass
        Its fields are annotated like those of `Settings`.

    Raises
    ------
    ConfigError
    """
    kind: Any = type(settings)
    for name, setting in _declared(kind).items():
        setting.check(getattr(settings, name))


@functools.cache
def _helps() -> dict[str, str]:
    """The text below each field, by the field's name.  Python keeps it only in the source."""
    helps = {}
    source = inspect.getsource(sys.modules[__name__])
    for first, second in itertools.pairwise(ast.walk(ast.parse(source))):
        match first, second:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                helps[name] = " ".join(text.split())
    return helps


def _folder(parent: Callable[..., Path], name: str) -> Any:
    """Default of a setting that is a folder: `name` in one of the user's own folders."""
    return msgspec.field(default_factory=lambda: str(parent("refocusd", appauthor=False) / name))


class EngineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is compiled and run; the same for every model of a worker."""

    backend: Backend = "auto"
    """What runs the model.  `auto` takes the best that is installed and works; `deconvolution` uses no
    model: it estimates each frame's blur and undoes it; `identity` returns frames as they are, to
    measure the path."""
    precision: Precision = "auto"
    """Number format of the network.  `auto` is f16 on a GPU; on a CPU it is bf16 where the processor
    has it, else int8 where the model ships it, else f32."""
    threads: Annotated[int, Limits(0, 256)] = 0
    """Threads of a CPU engine.  0 leaves one core to the acquisition where there are more than two."""
    tile_px: Annotated[int, Limits(0, 1 << 14)] = 0
    """Side of the tiles that larger frames are cut into.  0 takes what was measured as best on this
    computer."""
    tile_batch: Annotated[int, Limits(0, 64)] = 0
    """Tiles that go through the network at once.  0 takes what was measured as best."""
    engine_mib: Annotated[int, Limits(0, 1 << 20)] = 0
    """Limit of an engine's working memory.  0 takes what the backend considers safe."""
    blur_px: Annotated[float, Limits(0.0, 200.0)] = 0.0
    """Width of the blur where it is known: the standard deviation of the PSF, in pixels.  0 estimates it
    from the frames.  For the model live-fluorescence and the backend deconvolution."""
    psf: str = ""
    """TIFF file of the PSF of every frame: the image of a point at their pixel size and distance from
    focus, measured or computed.  Its form and, unless blur_px states it, its width are used.  For the
    model live-fluorescence and the backend deconvolution."""
    device: str = "CPU"
    """What the backend openvino computes on: CPU, GPU (Intel graphics), NPU, or AUTO, which leaves the
    choice to OpenVINO.  `refocusd doctor` lists the devices of this computer."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, and name them."""
        check_settings(self)


class Settings(EngineOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `refocusd run` does, and how much of the machine it may take."""

    endpoint: str = DEFAULT_ENDPOINT
    """Address of the daemon, on the loopback interface only."""
    model: str = "live-fluorescence"
    """Name of a model (`refocusd models` lists them), or the path of a bundle's folder."""
    channel_models: dict[str, str] = {}
    """Channels that have a model of their own, by name.  All other channels use `model`."""
    workers: Annotated[int, Limits(0, 64)] = 1
    """Worker processes.  0 uses only workers on other hosts, and needs `listen`."""
    policy: Policy = "defer"
    """What happens when the engine is slower than the camera.  `defer` refocuses the newest frame first
    and catches up the rest from the raw data when the workers are idle; `complete` refocuses every
    frame in order."""
    sink: SinkKind = "ndtiff"
    """Format of the refocused datasets."""
    pick_up: bool = True
    """At the start, finish acquisitions that an earlier daemon left unfinished."""
    listen: str = ""
    """Address where workers on other hosts connect, for example tcp://192.168.0.5:8752.  It needs keys
    (`refocusd keys new NAME`).  Empty: nowhere."""
    keys: str = _folder(platformdirs.user_config_path, "keys")
    """Folder of the keys for `listen`."""
    calibrations: str = _folder(platformdirs.user_config_path, "calibrations")
    """Folder of the calibration profiles (*.json).  A frame's metadata decide which profile it gets."""
    view: bool = True
    """Serve the live view, a web page on this computer."""
    view_port: Annotated[int, Limits(0, 65535)] = DEFAULT_VIEW_PORT
    """Port of the live view: http://127.0.0.1:8750/.  0 takes a free port."""
    webhook: str = ""
    """URL to which the live view posts alerts, as JSON: an acquisition that ended incomplete, a disk that
    is full, frames that are not trusted, a daemon without workers; and `process --cluster` reports how
    it ended."""
    webhook_untrusted: Annotated[float, Limits(0, 1)] = 0.2
    """Share of an acquisition's last 50 frames that are not trusted above which an alert is posted."""
    defocus_um: Annotated[float, Limits(-1000.0, 1000.0)] = 0.0
    """Distance of the frames from focus where it is known: stage z minus focus.  0 takes the stage's
    position and the focus in the calibration profile.  With the profile's PSF, or with the aperture and
    the pixel size, it gives the width of the blur, which is then corrected from the frames."""
    na: Annotated[float, Limits(0.0, 1.7)] = 0.0
    """Numerical aperture of the objective.  0 takes that of the calibration profile or of the frames'
    metadata."""
    blur_memory: bool = False
    """Begin with the blur that frames of the same camera, objective, channel and plane had in earlier
    acquisitions, until this acquisition's frames give their own; for microscopes whose focus does not drift.  Kept in
    blurs.json beside the ledgers."""
    self_calibrate: bool = True
    """Measure the PSF of a microscope automatically, on a z-stack that is refocused, where no calibration
    profile applies; it is used if it passes all checks.  See the guide on calibration."""
    advise_focus: bool = False
    """Report how far, and in which direction, the stage is from focus."""
    correct_focus: bool = False
    """Let sources move the stage as advised, within the limits that they set.  The source must
    allow it as well."""
    follow: list[str] = []
    """Folder whose new datasets are refocused while they grow, without a hook."""
    studio: Attach = "auto"
    """Acquisitions started in Micro-Manager's GUI.  `auto` attaches when its bridge answers; `on` also
    warns while it does not answer."""
    live: bool = True
    """Show Micro-Manager's live mode and snaps, refocused, in the view."""
    bridge_port: Annotated[int, Limits(1, 65535)] = 4827
    """Port of Micro-Manager's bridge on this computer."""
    studio_output: str = msgspec.field(default_factory=lambda: str(Path.home() / "refocusd"))
    """Folder for the refocused frames of acquisitions that Micro-Manager does not save."""
    ring_mib: Annotated[int, Limits(1, 1 << 16)] = 512
    """Shared memory for frames in flight: the limit of all acquisitions together."""
    source_mib: Annotated[int, Limits(0, 1 << 16)] = 0
    """Limit of one acquisition, at most `ring_mib`.  0: only the limit of all acquisitions."""
    inline: bool = False
    """Exchange pixels with workers through the socket instead of shared memory (slower)."""
    skip_channels: list[str] = []
    """Channel that is not refocused (brightfield, for example): its frames are `skipped`."""
    pass_in_focus: bool = True
    """Write frames that are already in focus without changing them."""
    untrusted: Untrusted = "deconvolve"
    """What is written for a frame whose result is not trusted.  `deconvolve` undoes the blur without the
    network where the blur is known, and else writes the raw frame; `pass` writes the raw frame; `skip`
    writes nothing; `mark` writes the result and says in its metadata that it is not trusted."""
    channel_untrusted: dict[str, str] = {}
    """The same for single channels, by name."""
    trust_map: bool = True
    """Write, beside the refocused frames, how likely each part of a frame is to be wrong; see the guide."""
    ledgers: str = _folder(platformdirs.user_data_path, "ledgers")
    """Folder of the ledgers, one SQLite file for each acquisition.  It must lie on a local disk."""
    reserve_mib: Annotated[int, Limits(0, 1 << 30)] = 512
    """Disk space that is left free."""
    task_timeout_s: Annotated[float, Limits(0.1, 86400)] = 60.0
    """A worker that holds one frame for longer counts as hung and is replaced."""
    source_timeout_s: Annotated[float, Limits(1, 86400)] = 30.0
    """A source that is silent for longer counts as gone; its raw data are caught up."""
    stop_timeout_s: Annotated[float, Limits(0.1, 86400)] = 30.0
    """How long a stop may take.  What is not done by then stays pending."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, and name them."""
        EngineOptions.__post_init__(self)
        if not (self.workers or self.listen):
            raise ConfigError(
                "workers = 0: it must lie between 1 and 64 where no worker on another host can "
                "connect (listen)"
            )
        if self.source_mib > self.ring_mib:
            raise ConfigError(
                f"source_mib = {self.source_mib}: it must lie between 0 and {self.ring_mib} "
                "(ring_mib)"
            )
        if both := sorted(set(self.channel_models) & set(self.skip_channels)):
            raise ConfigError(
                f"channel {both[0]} has a model (channel_models) and is skipped (skip_channels): "
                "take it out of one of them"
            )
        for channel, policy in self.channel_untrusted.items():
            if policy not in get_args(Untrusted):
                raise ConfigError(
                    f"channel_untrusted: {_short(policy)} for channel {_short(channel)}: it must be "
                    f"{SETTINGS['untrusted'].kind}"
                )
        address = re.fullmatch(r"tcp://(?:127\.0\.0\.1|localhost):([0-9]{1,5})", self.endpoint)
        if address is None or int(address[1]) > 65535:
            raise ConfigError(
                f"endpoint = {self.endpoint!r}: the daemon listens on the loopback interface only, "
                f'for example "{DEFAULT_ENDPOINT}"'
            )

    @property
    def models(self) -> dict[str, str]:
        """Name of the model of each channel that has one of its own; "" stands for all others.

        Backends that run no model have only "".
        """
        own = {} if self.backend in WITHOUT_MODEL else self.channel_models
        return {"": self.model, **own}

    @property
    def engine_options(self) -> EngineOptions:
        """Only the settings of engines."""
        return EngineOptions(*(getattr(self, name) for name in EngineOptions.__struct_fields__))


#: Every setting, by name.
SETTINGS: Mapping[str, Setting] = _declared(Settings)


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
        for name, value in _from_file(Path(file)).items():
            values[name] = _converted(_known(name, f"in {file}"), value, f"in {file}")
    for variable, text in (os.environ if environment is None else environment).items():
        if variable.startswith(PREFIX) and variable not in NOT_SETTINGS:
            setting = _known(variable.removeprefix(PREFIX).lower(), "in the environment", _variable)
            value = setting.from_text(text)
            values[setting.name] = _converted(setting, value, f"by {variable}")
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = _converted(SETTINGS[name], value, f"by {SETTINGS[name].flag}")
    return Settings(**values)


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment variables from which `load_settings` makes these settings again."""
    values = msgspec.to_builtins(settings)
    return {_variable(name): toml_value(value) for name, value in values.items()}


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _known(name: str, where: str, spelt: Callable[[str], str] = str) -> Setting:
    """The setting of this name.

    Raises
    ------
    ConfigError
        If there is none; the message suggests the closest name.
    """
    if setting := SETTINGS.get(name):
        return setting
    near = difflib.get_close_matches(name[:_SHOWN_CHARS], SETTINGS, n=1)
    advice = f"did you mean {spelt(near[0])}?" if near else "`refocusd config` prints all"
    raise ConfigError(f"{_short(spelt(name))} {where} is no setting of refocusd; {advice}")


def _converted(setting: Setting, value: Any, where: str) -> Any:
    try:
        made = msgspec.convert(value, setting.type, strict=False)
        setting.check(made)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{setting.name} = {_short(value)} (set {where}): it must be {setting.kind}"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"{error} (set {where})") from None
    return made


def _from_file(path: Path) -> dict[str, Any]:
    try:
        text = read_limited(path, MAX_FILE_NBYTES).decode("utf-8-sig")
        if any(line.count(".") > _MAX_DOTS for line in text.splitlines()):
            raise RecursionError
        return tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            f"the settings file {path} cannot be read: {error.strerror}; name another file, `refocusd "
            "config init` writes one"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the settings file {path} is not TOML: save it as UTF-8") from error
    except RecursionError as error:
        raise ConfigError(f"the settings file {path} is not TOML: too deeply nested") from error
    except ValueError as error:  # TOMLDecodeError, and integers of more than 4300 digits
        said = str(error) if "digits" not in str(error) else "it holds a number far too large"
        escaped = any(word in said for word in ("Unescaped", "escape", "hex value", "scalar value"))
        hint = _BACKSLASHES if escaped else ""
        raise ConfigError(f"the settings file {path} is not TOML: {said}{hint}") from error
