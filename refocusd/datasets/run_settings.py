"""The settings to finish a run with; those that determine the pixels are the run's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from refocusd.config import WITHOUT_MODEL, Settings
from refocusd.datasets.output import Output
from refocusd.errors import BundleError, InputError
from refocusd.files import in_command
from refocusd.models.bundle import load_bundle
from refocusd.models.library import shipped_bundles, user_bundles
from refocusd.profiles.catalogue import Catalogue
from refocusd.toml_value import toml_value

#: Settings that would make different frames from the run's, if given as flags of `resume`.
_PIXEL_FLAGS = ("backend", "pass_in_focus", "untrusted", "blur_px", "psf", "defocus_um", "na")


def refuse_other_frames(
    output: Output, raw: Path, asked: Collection[str], settings: Settings, own: Settings
) -> None:
    """Refuse settings that were asked for, but that the run was not made with.

    Parameters
    ----------
    output : Output
    raw : Path
    asked : collection of str
        Names of the settings that were given as flags.
    settings, own : Settings
        Those in force, and those of `settings_of_run`.

    Raises
    ------
    BundleError
        If the model that was asked for does not exist.
    InputError
        If a setting that was asked for differs from the run's.
    """
    values = {
        name: (_absolute(name, getattr(own, name)), _absolute(name, getattr(settings, name)))
        for name in _PIXEL_FLAGS
        if name in asked
    }
    if "model" in asked:
        same = load_bundle(settings.model).sha256 == output.engine.get("model_sha256")
        values["model"] = (output.model, output.model if same else settings.model)
    for name, (recorded, wanted) in values.items():
        if recorded != wanted:
            raise InputError(
                f"{output.path} was made with {name} = {toml_value(recorded)}, not {toml_value(wanted)}, "
                f"and is finished as it was begun: leave that flag out, or have `refocusd process {in_command(raw)}` "
                "make a second dataset with it, beside this one"
            )


def _absolute(name: str, value: Any) -> Any:
    return str(Path(value).absolute()) if name == "psf" and value else value


def settings_of_run(output: Output, settings: Settings) -> Settings:
    """The settings in force, with the run's own values for those that determine the pixels.

    Raises
    ------
    BundleError
        If the model that made the run is not available.
    """
    # The defaults are for settings that the run did not record.
    pixels = {
        name: output.settings.get(name, default)
        for name, default in (
            ("pass_in_focus", settings.pass_in_focus),
            ("untrusted", Settings().untrusted),
            ("channel_untrusted", {}),
            ("blur_px", 0.0),
            ("psf", ""),
            ("defocus_um", 0.0),
            ("na", 0.0),
        )
    }
    if (backend := output.engine.get("backend")) in WITHOUT_MODEL:
        return replace(settings, backend=backend, **pixels)
    recorded = _by_name(output.settings.get("channel_models"))
    channels = {
        channel: _at_hand(
            output, about, [recorded.get(channel), settings.channel_models.get(channel)]
        )
        for channel, about in _by_name(output.engine.get("channels")).items()
    }
    return replace(
        settings,
        model=_at_hand(output, output.engine, [output.settings.get("model"), settings.model]),
        channel_models=channels,
        # Frames that a rule skipped have their final state.
        skip_channels=[name for name in settings.skip_channels if name not in channels],
        backend="auto" if settings.backend in WITHOUT_MODEL else settings.backend,
        **pixels,
    )


def _by_name(said: object) -> dict[str, Any]:
    return said if isinstance(said, dict) else {}


def _at_hand(output: Output, engine: Any, names: Sequence[object]) -> str:
    """The name of the bundle, among these and those installed, that a run's engine used.

    Raises
    ------
    BundleError
        If there is none.
    """
    about = _by_name(engine)
    wanted = about.get("model_sha256")
    named = [name for name in names if isinstance(name, str) and name]
    for name in dict.fromkeys([*named, *shipped_bundles(), *user_bundles()]):
        try:
            if load_bundle(name).sha256 == wanted:
                return name
        except BundleError:
            continue
    raise BundleError(
        f"{output.path} was made with the model {about.get('model_id') or output.model} (sha256 "
        f"{str(wanted)[:12]}…), which is not at hand ({', '.join(named) or 'it'} is missing or "
        "another); name its folder with --model (or in channel_models), or refocus the raw data with "
        "another model by `refocusd process`: that makes a second dataset beside it"
    )


def check_profiles(output: Output, raw: Path, settings: Settings) -> None:
    """Refuse a run whose calibration profiles no longer exist, before an engine starts.

    Raises
    ------
    InputError
    """
    try:
        Catalogue(settings.calibrations).named(output.profiles, output.first)
    except InputError as error:
        raise InputError(
            f"{output.path} cannot be finished: {error}; or refocus the raw data anew, beside it, "
            f"with `refocusd process {in_command(raw)}`"
        ) from error
