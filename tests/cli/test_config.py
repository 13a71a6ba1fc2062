"""Settings: their sources, and what is refused."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from refocusd.cli.commands.config import example_settings
from refocusd.cli.flags import add_setting_flags, daemon_flags, settings_of
from refocusd.cli.main import main
from refocusd.config import SETTINGS, Settings, load_settings
from refocusd.errors import ConfigError
from refocusd.toml_value import toml_value

pytestmark = pytest.mark.fast

#: Values other than the defaults, for settings that are not switches.
OTHER: dict[str, Any] = {
    "device": "GPU",
    "psf": "bead.tif",
    "webhook": "https://chat.example/hook", "webhook_untrusted": 0.5,
    "backend": "openvino", "precision": "f32", "threads": 3, "tile_px": 512, "blur_px": 2.5,
    "defocus_um": -8.0, "na": 0.75,
    "untrusted": "mark", "channel_untrusted": {"DAPI": "skip"}, "tile_batch": 2,
    "engine_mib": 64, "endpoint": "tcp://127.0.0.1:9", "model": "C:/m", "channel_models": {"é": "b"},
    "workers": 2, "policy": "complete", "sink": "ome-zarr", "listen": "tcp://0.0.0.0:1", "keys": "k",
    "calibrations": "c", "view_port": 0, "follow": ["a", "b"], "studio": "off", "bridge_port": 1,
    "studio_output": "s", "ring_mib": 64, "source_mib": 32, "skip_channels": ["a", "b"],
    "ledgers": "l", "reserve_mib": 0, "task_timeout_s": 0.5, "source_timeout_s": 1.5,
    "stop_timeout_s": 2.5,
}  # fmt: skip


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "refocusd.toml"
    file.write_text('ring_mib = 64\nthreads = 3\nmodel = "a"\n', encoding="utf-8")
    environment = {"REFOCUSD_THREADS": "5", "REFOCUSD_MODEL": "b", "PATH": "/bin"}
    settings = load_settings(file, {"model": "c", "workers": None}, environment)
    assert (settings.ring_mib, settings.threads, settings.model) == (64, 5, "c")
    assert settings.workers == Settings().workers


def test_the_variable_of_the_tests_is_no_setting() -> None:
    assert load_settings(environment={"REFOCUSD_TEST_DATA": "/data"}) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ring_mb = 64", "ring_mb"),
        ('ring_mib = "much"', "ring_mib"),
        ("ring_mib = 0", "between 1 and"),
        ("workers = 0", "between 1 and"),
        ('backend = "magic"', "magic"),
        ('endpoint = "tcp://0.0.0.0:8751"', "loopback"),
        ('endpoint = "127.0.0.1"', "loopback"),
        ("this is not TOML", "is not TOML"),
        ('follow = "data"', "a list of texts"),
        ("channel_models = { GFP = 3 }", "a table of texts"),
        ("ring_mib = 1.5", "a whole number, 1 to 65536 MiB"),
        ("task_timeout_s = nan", "between 0.1 and"),
        ("source_mib = 600", "between 0 and 512"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "refocusd.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_settings(file, environment={})


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 30_000,
        "a." * 20_000 + "a = 1",
        "ring_mib = " + "9" * 6000,
        "ring_mib = 0x" + "f" * 30_000,
        "x" * 30_000 + " = 1",
        "ring_mib = 1\n" * 20_000,
        "model = 1 # \udc80",
    ],
    ids=["deep", "dotted", "huge", "huge in hex", "long key", "large", "not UTF-8"],
)
def test_an_absurd_file_is_one_clear_error_at_once(tmp_path: Path, text: str) -> None:
    file = tmp_path / "refocusd.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load_settings(file, environment={})
    assert "refocusd.toml" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a pipe"])
def test_what_is_no_file_is_an_error_at_once(tmp_path: Path, kind: str) -> None:
    place = Path("/dev/zero") if kind == "device" else tmp_path / "refocusd.toml"
    if kind == "folder":
        place.mkdir()
    elif kind != "device":
        os.mkfifo(place)  # without a writer: opening it as a file would block forever
    if kind == "link to a pipe":
        place = tmp_path / "link.toml"
        place.symlink_to(tmp_path / "refocusd.toml")
    with pytest.raises(ConfigError, match=r"cannot be read: .*config init"):
        load_settings(place, environment={})


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "refocusd.toml"
    file.write_text("ring_mib = 64\n", encoding="utf-8-sig")
    assert load_settings(file, environment={}).ring_mib == 64


@pytest.mark.parametrize("path", [r"C:\users\me", r"D:\data", r"C:\temp"])
def test_a_windows_path_in_quotes_gets_a_hint(tmp_path: Path, path: str) -> None:
    file = tmp_path / "refocusd.toml"
    file.write_text(f'ledgers = "{path}"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"slashes \(\"C:/data\"\) or in single quotes"):
        load_settings(file, environment={})
    file.write_text(f"ledgers = '{path}'\n", encoding="utf-8")
    assert load_settings(file, environment={}).ledgers == path


def test_a_wrong_value_is_reported_with_where_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "refocusd.toml"
    file.write_text("ring_mib = 0\n", encoding="utf-8")
    for arguments, source in (
        ({"file": file, "environment": {}}, r"set in .*refocusd\.toml"),
        ({"environment": {"REFOCUSD_RING_MIB": "0"}}, "set by REFOCUSD_RING_MIB"),
        ({"flags": {"ring_mib": 0}, "environment": {}}, "set by --ring-mib"),
    ):
        with pytest.raises(ConfigError, match=f"ring_mib = 0: .*{source}"):
            load_settings(**arguments)


def test_an_unknown_key_is_reported_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "refocusd.toml"
    file.write_text('modle = "live-nuclei"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"'modle' .*did you mean model\?"):
        load_settings(file, environment={})


def test_a_variable_needs_no_quotes() -> None:
    environment = {"REFOCUSD_MODEL": "5", "REFOCUSD_VIEW": "0", "REFOCUSD_STUDIO": "off"}
    settings = load_settings(environment=environment)
    assert (settings.model, settings.view, settings.studio) == ("5", False, "off")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_the_same_by_flag_variable_and_file(name: str, tmp_path: Path) -> None:
    setting = SETTINGS[name]
    value = OTHER.get(name, not getattr(Settings(), name))
    file = tmp_path / "refocusd.toml"
    file.write_text(f"{name} = {toml_value(value)}\n", encoding="utf-8")
    wanted = load_settings(file, environment={})
    assert getattr(wanted, name) == value
    variables = {f"REFOCUSD_{name.upper()}": toml_value(value)}
    assert load_settings(environment=variables) == wanted
    if setting.flag:
        parser = argparse.ArgumentParser()
        add_setting_flags(parser)
        words = {
            bool: [setting.flag if value else setting.flag.replace("--", "--no-")],
            list: [setting.flag, "a", setting.flag, "b"],
        }.get(type(value), [setting.flag, str(value)])
        arguments = parser.parse_args(words)
        assert settings_of(arguments) == wanted
        # A daemon that is started as a child gets the same settings except the address.
        assert daemon_flags(arguments) == ([] if name == "endpoint" else words)


def test_the_table_of_the_guide_is_that_of_the_settings() -> None:
    script = Path(__file__).parents[2] / ".ci" / "settings_table.py"
    done = subprocess.run([sys.executable, str(script), "--check"], timeout=60, check=False)
    assert done.returncode == 0, "run python .ci/settings_table.py"


def test_an_unknown_variable_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="REFOCUSD_RING_MIB"):
        load_settings(environment={"REFOCUSD_RINGMIB": "64"})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read"):
        load_settings(tmp_path / "absent.toml", environment={})


def test_the_example_names_every_setting_and_explains_it() -> None:
    text = example_settings()
    for name in Settings.__struct_fields__:
        assert re.search(rf"^# .+\n#{name} = ", text, re.MULTILINE), name
    assert "REFOCUSD_" in text


def test_the_example_as_it_is_changes_nothing_and_uncommented_neither(tmp_path: Path) -> None:
    file = tmp_path / "refocusd.toml"
    assert main(["config", "init", "--output", str(file)]) == 0
    assert load_settings(file, environment={}) == Settings()
    text = re.sub(r"^#(?=\w+ = )", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    file.write_text(text, encoding="utf-8")
    assert tomllib.loads(text).keys() == set(Settings.__struct_fields__)
    assert load_settings(file, environment={}) == Settings()


def test_a_settings_file_that_exists_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "refocusd.toml"
    file.write_text("threads = 3\n", encoding="utf-8")
    assert main(["config", "init", "--output", str(file)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "threads = 3\n"
    assert main(["config", "init", "--output", str(file), "--overwrite"]) == 0
    assert load_settings(file, environment={}) == Settings()


@pytest.mark.parametrize(
    "value", ["a\\b", 'say "x"', "Zoë\n", True, 3, 2.5, [], ["D:\\Data", "é"], "\x7f"]
)
def test_what_is_printed_is_toml(value: object) -> None:
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == value
