"""The shipped bundle is a bioimage.io model, which their own tools validate and run offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_foreign_bundles import CASES, made

from refocusd.models.bundle import load_bundle
from refocusd.models.library import shipped_bundles

#: Makes every connection of the process fail, so that nothing is fetched.
CHILD = """
import json, socket, sys, warnings
from pathlib import Path

def refuse(*arguments):
    raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import numpy as np
from bioimageio.core import load_model_description, predict, test_model

results = []
for folder in map(Path, sys.argv[1:]):
    summary = test_model(folder / "rdf.yaml", weight_format="onnx")
    result = {
        "status": summary.status,
        "checks": [[detail.name, detail.status] for detail in summary.details],
    }
    results.append(result)
    if (folder / "test_input.npy").exists() and summary.status == "passed":
        model = load_model_description(folder / "rdf.yaml")
        counts = np.load(folder / "test_input.npy")
        sample = predict(model=model, inputs={str(model.inputs[0].id): counts})
        output = np.asarray(sample.members[model.outputs[0].id].data)
        result["shape"] = list(output.shape)
        result["largest"] = float(np.abs(output - np.load(folder / "test_output.npy")).max())
print("RESULT " + json.dumps(results))
"""


def _run(folders: Sequence[Path], tmp_path: Path) -> Any:
    environment = {
        **os.environ,
        "BIOIMAGEIO_CACHE_PATH": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONUTF8": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, folders)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


@pytest.mark.parametrize("name", shipped_bundles())
def test_bioimageio_validates_and_runs_the_bundle_within_its_tolerance(
    name: str, tmp_path: Path
) -> None:
    bundle = load_bundle(name)
    (found,) = _run([bundle.folder], tmp_path)
    assert found["status"] == "passed", found["checks"]
    names = " ".join(check for check, _ in found["checks"])
    assert "format validation" in names
    assert "Reproduce test outputs" in names
    assert found["shape"] == list(np.load(bundle.folder / "test_output.npy").shape)
    assert found["largest"] <= bundle.tolerance["f32"]


def test_the_models_of_others_in_these_tests_are_such_models(tmp_path: Path) -> None:
    """bioimageio.core agrees with what `test_foreign_bundles` expects of the models."""
    folders = [made(tmp_path / f"model{n}", case) for n, case in enumerate(CASES)]
    found = _run(folders, tmp_path)
    states = {case: result["status"] for case, result in zip(CASES, found, strict=True)}
    assert set(states.values()) == {"passed"}, found
