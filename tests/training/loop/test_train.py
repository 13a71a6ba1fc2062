"""The training loop learns, is reproducible, validates, and reports what it did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from refocusd_training.config import TrainingConfig, load_config, write_config
from refocusd_training.data.samples import Prefetched, SampleStream
from refocusd_training.loop.folder import origin_of
from refocusd_training.loop.run import run_training
from refocusd_training.loop.schedule import rates_at
from refocusd_training.losses import refocus_loss
from refocusd_training.networks import NetworkConfig, build_network
from safetensors.torch import load_file, save_file
from tiny_training import TINY, column, network_of, same_weights, train, write_images
from torch import nn

from refocusd.cli.main import main
from refocusd.errors import ConfigError, InputError, OutputError
from refocusd.models.bundle import load_bundle

#: Losses of the first steps in the loop that trained the shipped bundle, before Lightning.
FIRST_LOSSES = [
    *(0.17621, 0.28766, 0.20666, 0.09988, 0.21100, 0.14097, 0.25728, 0.04226, 0.25755, 0.15406),
    *(0.10948, 0.34659, 0.14590, 0.16438, 0.24661, 0.13539, 0.38040, 0.14453, 0.12747, 0.05884),
]


@pytest.fixture(scope="module")
def images(sample: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), sample)


def held_back_loss(network: nn.Module, flux: NDArray[np.float32]) -> float:
    """Mean loss over frames that were not used in training."""
    stream = iter(SampleStream([flux], size=96, batch=8, bank=12, seed=99))
    found = []
    with torch.inference_mode():
        for _ in range(4):
            batch = next(stream)
            raw, truth, span = map(torch.from_numpy, (batch.raw, batch.truth, batch.span))
            found.append(float(refocus_loss(network(raw), truth, span, 0.01)))
    return float(np.mean(found))


def test_a_training_learns_and_says_what_it_did(flux: NDArray[np.float32], tmp_path: Path) -> None:
    run = tmp_path / "one"
    record = train(TINY, [flux], run)
    trained = network_of(TINY)
    trained.load_state_dict(load_file(run / "weights.safetensors"))
    assert held_back_loss(trained, flux) < held_back_loss(network_of(TINY), flux) - 0.02
    assert len(column(run, "loss")) == record.steps == 40
    # Other processors sum half-precision numbers in another order.
    np.testing.assert_allclose(column(run, "loss")[:20], FIRST_LOSSES, rtol=0.02)
    written = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert written["seed"] == 7
    assert written["ended"] == "steps"
    assert {"torch", "lightning", "refocusd"} <= set(written["versions"])
    assert load_config(run / "config.toml") == TINY
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))


def test_the_same_seed_gives_the_same_weights(flux: NDArray[np.float32], tmp_path: Path) -> None:
    short = replace(TINY, steps=6, checkpoint_every=6)
    for name, config in (("a", short), ("b", short), ("c", replace(short, seed=8))):
        train(config, [flux], tmp_path / name)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_the_best_weights_are_those_of_the_lowest_validation_loss(
    images: Path, tmp_path: Path
) -> None:
    config = replace(TINY, steps=30, validate_every=10)
    record = run_training(config, images, tmp_path / "run", device="cpu")
    found = column(tmp_path / "run", "validation_loss", "validation.csv")
    assert len(found) == 3
    assert record.best_step == 10 * (1 + int(np.argmin(found)))
    assert record.validation_loss == pytest.approx(found[-1])
    assert found[-1] < found[0]
    told = (tmp_path / "run" / "validation_by_defocus.csv").read_text(encoding="utf-8")
    head, *rows = (line.split(",") for line in told.splitlines())
    assert head == ["step", "defocus_um", "frames", "validation_psnr_db"]
    assert {row[0] for row in rows} == {"10", "20", "30"}
    last = [(float(um), int(n), float(db)) for step, um, n, db in rows if step == "30" and um]
    unknown = [(int(n), float(db)) for step, um, n, db in rows if step == "30" and not um]
    assert [um for um, _, _ in last] == sorted({um for um, _, _ in last})
    assert len(last) > 1
    every = [(n, db) for _, n, db in last] + unknown
    mean = sum(n * db for n, db in every) / sum(n for n, _ in every)
    whole = column(tmp_path / "run", "validation_psnr_db", "validation.csv")
    assert mean == pytest.approx(whole[-1], abs=2e-3)
    assert record.images > 0
    assert record.samples["kind"] == "sharp"


def test_a_run_that_gets_no_better_ends_with_its_best_weights(images: Path, tmp_path: Path) -> None:
    # A learning rate that spoils the initialisation, which is nearly the identity.
    config = replace(
        TINY, steps=200, learning_rate=0.3, warm_up=1, ema=0.5, validate_every=2, patience=3
    )
    record = run_training(config, images, tmp_path / "run", device="cpu")
    found = column(tmp_path / "run", "validation_loss", "validation.csv")
    assert record.ended == "patience"
    assert record.steps < 200
    assert record.best_step == record.steps - 6
    assert record.validation_loss == pytest.approx(min(found), abs=1e-4)
    best, kept = (load_file(tmp_path / "run" / f"{n}.safetensors") for n in ("best", "weights"))
    assert all(torch.equal(best[key], kept[key]) for key in best)


def test_a_run_ends_in_time(flux: NDArray[np.float32], tmp_path: Path) -> None:
    config = replace(TINY, steps=100_000, minutes=0.01)
    record = train(config, [flux], tmp_path / "run")
    assert record.ended == "minutes"
    assert 0 < record.steps < 100_000
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["steps"] > 0


def test_a_loss_that_diverges_ends_the_run_with_its_last_checkpoint(
    flux: NDArray[np.float32], tmp_path: Path
) -> None:
    config = replace(TINY, steps=5, checkpoint_every=5, warm_up=1, decay=0)
    train(config, [flux], tmp_path / "run")
    good = (tmp_path / "run" / "weights.safetensors").read_bytes()
    # With this learning rate, weights exceed the range of float32 after a few steps.
    spoiled = tmp_path / "run" / "config.toml"
    spoiled.write_text(
        spoiled.read_text(encoding="utf-8").replace(
            "learning_rate = 0.004", "learning_rate = 1e30"
        ),
        encoding="utf-8",
    )
    wild = replace(config, steps=50, learning_rate=1e30)
    with pytest.raises(InputError, match=r"diverged at step \d+: its gradient is (nan|inf)"):
        train(wild, [flux], tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == good
    weights = load_file(tmp_path / "run" / "weights.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_a_batch_depends_on_seed_and_step_alone(flux: NDArray[np.float32]) -> None:
    stream = SampleStream([flux], size=64, batch=2, bank=5, seed=3)
    run = iter(stream)
    batches = [next(run) for _ in range(4)]
    resumed = next(stream.batches(3))
    np.testing.assert_array_equal(batches[3].raw, resumed.raw)
    np.testing.assert_array_equal(batches[3].truth, resumed.truth)
    assert not np.array_equal(batches[2].raw, resumed.raw)


def test_the_simulator_hands_its_error_to_the_trainer() -> None:
    stream = SampleStream([np.zeros((0, 0), np.float32)], size=64, batch=2, bank=2, seed=3)

    def take_all() -> None:
        with Prefetched(iter(stream)) as batches:
            for _ in range(100):
                batches.take()

    with pytest.raises(ValueError, match="empty axis"):
        take_all()


def test_the_constant_rate_rises_stays_and_falls_to_zero() -> None:
    rates = [rates_at(TINY, step).rest for step in range(1, 41)]
    assert rates[0] == pytest.approx(TINY.learning_rate / 5)
    assert rates[4:30] == [TINY.learning_rate] * 26
    assert rates[-1] == 0
    longer = replace(TINY, steps=100)
    assert [rates_at(longer, step).rest for step in range(1, 31)] == rates[:30]


def test_one_cycle_is_torchs() -> None:
    config = replace(TINY, schedule="one-cycle", steps=50, rise=0.3)
    optimiser = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=50, pct_start=0.3
    )
    for step in range(1, 51):
        rates = rates_at(config, step)
        assert rates.rest == pytest.approx(cycle.get_last_lr()[0], rel=1e-6)
        assert rates.beta == pytest.approx(optimiser.param_groups[0]["betas"][0])
        optimiser.step()
        if step < 50:
            cycle.step()


def test_a_frozen_encoder_has_a_cycle_of_its_own() -> None:
    config = replace(
        TINY,
        schedule="one-cycle",
        steps=100,
        frozen_steps=40,
        unfrozen_rate=1e-3,
        rise=0.25,
        weights="w.safetensors",
    )
    rates = [rates_at(config, step) for step in range(1, 101)]
    assert [r.frozen for r in rates] == [True] * 40 + [False] * 60
    assert max(r.rest for r in rates[:40]) == pytest.approx(config.learning_rate, rel=1e-2)
    assert max(r.rest for r in rates[40:]) == pytest.approx(1e-3, rel=1e-2)
    assert rates[60].encoder == pytest.approx(rates[60].rest * config.encoder_rate)


def test_a_frozen_encoder_stays_and_its_normalisations_and_the_defocus_head_learn(
    images: Path, tmp_path: Path
) -> None:
    described = NetworkConfig(
        "resnet34", stages=(8, 8, 16, 16), depths=(1, 1, 1, 1), defocus_head=True
    )
    save_file(build_network(described).state_dict(), tmp_path / "start.safetensors")
    config = replace(
        TINY,
        schedule="one-cycle",
        steps=6,
        frozen_steps=3,
        weights=str(tmp_path / "start.safetensors"),
        ema=0.0,
        decay=0,
        checkpoint_every=1,
        snapshots=True,
        network=described,
    )
    run_training(config, images, tmp_path / "run", device="cpu")
    early, frozen, after = (
        load_file(tmp_path / "run" / f"step_{step:06d}.safetensors") for step in (1, 2, 6)
    )
    network = network_of(config)
    inside = {id(parameter) for parameter in network.encoder_parameters()}
    for name, parameter in network.named_parameters():
        convolution = id(parameter) in inside and parameter.ndim == 4
        assert torch.equal(early[name], frozen[name]) == convolution, name
        assert not torch.equal(frozen[name], after[name]), name


def test_a_run_may_add_a_defocus_head_to_weights_without_one(images: Path, tmp_path: Path) -> None:
    run_training(replace(TINY, steps=1), images, tmp_path / "first", device="cpu")
    start = tmp_path / "first" / "weights.safetensors"
    headed = replace(
        TINY,
        steps=1,
        ema=0.0,
        learning_rate=1e-9,
        weights=str(start),
        network=replace(TINY.network, defocus_head=True),
    )
    run_training(headed, images, tmp_path / "second", device="cpu")
    before, after = load_file(start), load_file(tmp_path / "second" / "weights.safetensors")
    assert {name for name in after if name not in before} == {
        f"defocus.{name}" for name in ("inner.weight", "inner.bias", "out.weight", "out.bias")
    }
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-7, rtol=0)
    # The other way round, something would be lost silently; other shapes do not fit.
    with_head = str(tmp_path / "second" / "weights.safetensors")
    for change in ({"defocus_head": False}, {"half": 4}):
        other = replace(headed, weights=with_head, network=replace(headed.network, **change))
        with pytest.raises(InputError, match="does not fit"):
            run_training(other, images, tmp_path / next(iter(change)), device="cpu")


def test_settings_survive_their_file(tmp_path: Path) -> None:
    write_config(TINY, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == TINY
    write_config(TrainingConfig(), tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == TrainingConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepz = 3", "stepz"),
        ("[network]\ndepth = 3", "depth"),
        ("[loss]\nweightz = 3", "weightz"),
        ("[final_loss]\nweightz = 3", "weightz"),
        ("[data]\nkinds = 3", "kinds"),
        ("size = 100", "multiple of 32"),
        ("steps = 0", "between 1 and"),
        ("steps = 2.5", "int"),
        ('learning_rate = "high"', "float"),
        ('schedule = "cosine"', "cosine"),
        ("steps = 10\nfrozen_steps = 10", "leave some unfrozen"),
        ("frozen_steps = 3", "must be trained from the start"),
        ("patience = 3", "validate_every"),
        ("steps = ", "TOML"),
    ],
)
def test_settings_that_cannot_be_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_config(path)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "training" / "configs").glob("*.toml")), ids=str
)
def test_the_shipped_configurations_can_be_read(path: Path) -> None:
    assert load_config(path).steps > 0


def test_a_run_overwrites_nothing(flux: NDArray[np.float32], tmp_path: Path) -> None:
    (tmp_path / "results.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="not empty"):
        train(TINY, [flux], tmp_path)


def test_a_run_that_came_to_no_checkpoint_is_begun_again_in_its_folder(
    images: Path, tmp_path: Path
) -> None:
    config = replace(TINY, steps=2, warm_up=0, decay=0)
    with pytest.raises(InputError, match="is not a folder"):
        run_training(config, tmp_path / "mistyped", tmp_path / "run", device="cpu")
    with pytest.raises(InputError, match="start the run anew, without --resume"):
        run_training(config, images, tmp_path / "run", device="cpu", resume=True)
    assert run_training(config, images, tmp_path / "run", device="cpu").steps == 2


def test_a_run_says_where_its_weights_are_from(images: Path, tmp_path: Path) -> None:
    shipped = load_bundle("live-nuclei")
    assert shipped.weights is not None
    assert origin_of(shipped.weights) == f"from the bundle {shipped.model_id}"
    run_training(replace(TINY, steps=1), images, tmp_path / "first", device="cpu")
    told = origin_of(tmp_path / "first" / "weights.safetensors")
    assert "weights.safetensors of the run first (1 steps of " in told
    assert told.endswith("weights from the seed)")
    assert str(tmp_path) not in told
    (tmp_path / "first" / "run.json").write_text("{}", encoding="utf-8")
    for stem in ("first/weights", "elsewhere/mine"):
        path = tmp_path / f"{stem}.safetensors"
        assert origin_of(path) == f"from {path.name}"


def test_a_resumed_run_keeps_what_it_was_begun_with(images: Path, tmp_path: Path) -> None:
    run_training(TINY, images, tmp_path / "run", device="cpu")
    again = replace(TINY, weights=str(tmp_path / "others.safetensors"))
    run_training(again, images, tmp_path / "run", device="cpu", resume=True)
    assert load_config(tmp_path / "run" / "config.toml").weights == ""


# What torch 2.13's exporter says of itself.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")
def test_a_bundle_of_other_data_is_made_and_what_is_missing_is_reported_first(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(config: TrainingConfig, name: str) -> int:
        write_config(config, tmp_path / f"{name}.toml")
        arguments = ["--config", str(tmp_path / f"{name}.toml"), "--data", str(images)]
        arguments += ["--output", str(tmp_path / name), "--bundle", str(tmp_path / f"{name}-1")]
        return main(["train", "run", *arguments, "--device", "cpu"])

    own = replace(TINY, steps=1, data=replace(TINY.data, channels=("DNA=.",)))
    assert trained(own, "own") == 0
    assert "not evaluated" in " ".join(capsys.readouterr().out.split())
    assert load_bundle(tmp_path / "own-1").model_id == "own-1"
    assert trained(replace(own, data=replace(own.data, channels=())), "shipped") != 0
    assert "fetch-bbbc038" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "shipped").exists()
    # So is a path at which no bundle can be written.
    (tmp_path / "thesis-1").mkdir()
    (tmp_path / "thesis-1" / "chapter.tex").touch()
    assert trained(own, "thesis") != 0
    assert "not a bundle" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "thesis").exists()
