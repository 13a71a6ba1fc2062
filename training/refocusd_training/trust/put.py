"""Puts the thresholds by which a model's results are judged into its bundle."""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml

from refocusd import files
from refocusd.errors import OutputError
from refocusd.models.bundle import SIDECAR, VERDICT, load_bundle


def put_into_bundle(folder: Path, text: str) -> Path:
    """Write a bundle's `VERDICT`, and list it in its description.

    Parameters
    ----------
    folder : Path
    text : str
        From `refocusd_training.trust.fit.judge_text`.

    Returns
    -------
    Path
        Path of the file.

    Raises
    ------
    BundleError
        If the folder holds no bundle.
    OutputError
        If it cannot be written.
    """
    load_bundle(folder)
    foreign = (folder / SIDECAR).is_file()
    path = folder / (SIDECAR if foreign else "rdf.yaml")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["config"]["refocusd"]["files"][VERDICT] = sha256 = hashlib.sha256(
        text.encode()
    ).hexdigest()
    if not foreign:
        others = [one for one in content.get("attachments", []) if one["source"] != VERDICT]
        content["attachments"] = [*others, {"source": VERDICT, "sha256": sha256}]
    described = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    try:
        files.write_whole(folder / VERDICT, text.encode())
        files.write_whole(path, described.encode())
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror or error})") from error
    load_bundle(folder)
    return folder / VERDICT
