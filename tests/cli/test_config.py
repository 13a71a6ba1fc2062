"""Settings: where they come from, and what is refused."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from refocusd.cli.commands.config import example_settings
from refocusd.cli.main import main
from refocusd.config import Settings, load_settings, toml_value
from refocusd.errors import ConfigError


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
    ],
)
def test_a_wrong_setting_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "refocusd.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_settings(file, environment={})


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
