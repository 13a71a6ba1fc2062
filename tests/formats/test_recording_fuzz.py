"""Damaged files: an error of ours, or frames of the size and type they had.  Nothing else."""

from __future__ import annotations

import contextlib
import gc
import json
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fuzzing import ROUNDS, Target, changed_tree, damaged, fuzz, judge, judging, weak_places
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from recordings_on_disk import (
    frames,
    nth,
    record,
    write_micromanager,
    write_ndtiff,
    write_tiff,
    write_z_dataset,
)

from refocusd.errors import InputError
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.tiff.arrangement import MAX_FRAMES
from refocusd.formats.tiff.ome_xml import from_ome

SIDE = (24, 32)
NDTIFF_SUMMARY = {"PixelSize_um": 0.65, "Prefix": "run"}


@dataclass(frozen=True)
class Victim:
    """A small valid recording, of which one file is damaged."""

    path: Path
    file: Path
    dtype: type


def _tiff(**options: object) -> Callable[[Path], Victim]:
    def make(folder: Path) -> Victim:
        path = write_tiff(folder / "a.tif", frames(5, side=SIDE), **options)
        return Victim(path, path, np.uint16)

    return make


def _micromanager(folder: Path) -> Victim:
    places = [(c, 0, t, 0) for t in range(2) for c in range(2)]
    path = write_micromanager(
        folder / "a_MMStack.ome.tif", frames(4, side=SIDE), places, {"ChNames": ["a", "b"]}
    )
    return Victim(path, path, np.uint16)


def _dataset(file: str, dtype: type) -> Callable[[Path], Victim]:
    def make(folder: Path) -> Victim:
        path = write_z_dataset(folder / "run", frames(5, dtype=dtype, side=SIDE))
        return Victim(path, path / file, dtype)

    return make


def _png(folder: Path) -> Victim:
    path = folder / "a.png"
    said = PngInfo()
    for number in range(20):
        said.add_text(f"Comment{number}", "acquired with care " * 20, zip=number % 2 == 1)
    Image.fromarray(frames(1, side=SIDE)[0]).save(path, pnginfo=said)
    return Victim(path, path, np.uint16)


VICTIMS: dict[str, Callable[[Path], Victim]] = {
    "plain": _tiff(metadata=None),
    "tifffile": _tiff(metadata={"axes": "ZYX"}),
    "ImageJ": _tiff(imagej=True),
    "ImageJ in one piece": _tiff(imagej=True, truncate=True),
    "OME": _tiff(ome=True),
    "BigTIFF, big-endian, strips": _tiff(bigtiff=True, byteorder=">", rowsperstrip=5),
    "tiles": _tiff(tile=(16, 16)),
    "LZW": _tiff(compression="lzw", predictor=True),
    "Deflate": _tiff(compression="zlib", rowsperstrip=7),
    "Micro-Manager": _micromanager,
    "NDTiff index": _dataset("NDTiff.index", np.uint16),
    "NDTiff pixels": _dataset("NDTiffStack.tif", np.uint8),
    "PNG": _png,
}


def _read_victim(victim: Victim, data: bytes) -> str:
    """Open and read a damaged recording: its frames are as they were, or it is refused by name."""
    victim.file.write_bytes(data)
    try:
        with open_dataset(victim.path, max_frame_bytes=1 << 20) as recording:
            plan = recording.plan()
            for index in range(len(plan)):
                pixels = nth(recording, index).pixels
                assert pixels.shape == (plan.format.height, plan.format.width)
                if victim.path.suffix == ".png":
                    continue  # with its sums put right it is another, good PNG
                assert pixels.shape == SIDE
                assert pixels.dtype == np.dtype(victim.dtype)
    except InputError as error:
        if str(victim.path) not in str(error):
            raise AssertionError(f"does not name the file: {error}") from error
        raise
    return "read"


def _file_target(kind: str, folder: Path) -> Target:
    victim = VICTIMS[kind](folder)
    content = victim.file.read_bytes()
    mutate = _damaged_png if kind == "PNG" else partial(_damaged_file, weak_places(content))
    return Target(kind, [content], mutate, partial(_read_victim, victim))


def _damaged_file(weak: Sequence[int], content: bytes, rng: Random) -> bytes:
    return damaged(content, rng, weak=weak)


def _damaged_png(content: bytes, rng: Random) -> bytes:
    """A damaged PNG; half of them with the sums of their chunks put right again."""
    data = bytearray(damaged(content, rng, tokens=[b"IDAT", b"zTXt", b"tRNS", b"acTL", b"fdAT"]))
    at = 8
    while rng.random() < 0.9 and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(data)


# -- what fields say ---------------------------------------------------------------------


def _index_target(folder: Path) -> Target:
    """An index whose records are whole, but say other things."""
    path = write_z_dataset(folder / "fields", frames(5, side=SIDE))
    victim = Victim(path, path / "NDTiff.index", np.uint16)
    with closing(NDTiffReader(path)) as reader:
        records = [
            {
                "axes": json.loads(key),
                "file": entry.file,
                "place": [
                    *(entry.offset, SIDE[1], SIDE[0], 1, 0),
                    *(entry.metadata_offset, entry.metadata_length, 0),
                ],
            }
            for key, entry in reader._frames.items()
        ]

    def mutate(content: bytes, rng: Random) -> bytes:
        chosen = [dict(r) for r in records]
        at = rng.randrange(len(chosen))
        chosen[at] = changed_tree(chosen[at], rng)
        return b"".join(_packed(r) for r in chosen if r)

    def feed(data: bytes) -> str:
        # A record may name another part of the file: any format may come out, not only ours.
        victim.file.write_bytes(data)
        with closing(NDTiffReader(victim.path, max_frame_bytes=1 << 20)) as reader:
            for key in reader.axes_keys():
                form = reader.format_of(key)
                pixels = reader.read(key).pixels
                assert pixels.shape == (form.height, form.width)
                assert pixels.dtype == form.dtype
        return "read"

    return Target("NDTiff index fields", [victim.file.read_bytes()], mutate, feed)


def _packed(said: dict[str, Any]) -> bytes:
    place = said.get("place")
    numbers = [n for n in place if type(n) is int] if isinstance(place, list) else []
    whole = tuple(n & 0xFFFFFFFF for n in [*numbers, *[0] * 8][:8])
    return record(said.get("axes", {}), str(said.get("file", "")).replace("\ud800", ""), whole)


def _metadata_target(folder: Path) -> Target:
    """Summary or frame metadata of an NDTiff dataset: JSON with other fields, or none."""
    path = folder / "metadata"
    good = {"ElapsedTime-ms": 10.0, "PixelSizeUm": 0.65, "Axes": {"z": 0}, "Tags": ["a", {"b": 1}]}
    room = {"Pad": "x" * 3000}  # so that another text fits in its place
    plane = frames(1, side=SIDE)[0]
    write_ndtiff(path, [({"z": 0}, plane, good | room)], NDTIFF_SUMMARY | room)
    whole = (path / "NDTiffStack.tif").read_bytes()
    with closing(NDTiffReader(path)) as reader:
        (entry,) = reader._frames.values()
    places = {b"F": (entry.metadata_offset, entry.metadata_length)}
    places[b"S"] = (28, int.from_bytes(whole[24:28], "little"))
    seeds = [b"F" + json.dumps(good).encode(), b"S" + json.dumps(NDTIFF_SUMMARY).encode()]
    tokens = [b"NaN", b"-Infinity", b"1e999", b"9" * 500, b"[" * 2000, b'"\\ud800"', b"null", b"\0"]

    def mutate(content: bytes, rng: Random) -> bytes:
        if rng.random() < 0.5:
            return content[:1] + damaged(content[1:], rng, tokens=tokens)
        return content[:1] + json.dumps(changed_tree(json.loads(content[1:]), rng)).encode()

    def feed(data: bytes) -> str:
        at, length = places[data[:1]]
        text = data[1:][:length].ljust(length, b" ")
        (path / "NDTiffStack.tif").write_bytes(whole[:at] + text + whole[at + length :])
        with open_dataset(path) as recording:
            assert len(recording) == 1
            frame = nth(recording, 0)
            np.testing.assert_array_equal(frame.pixels, plane)
            # The wire, the ledger and the refocused dataset take it on as JSON in UTF-8.
            json.dumps(dict(frame.metadata), ensure_ascii=False).encode()
            json.dumps(dict(recording.summary), ensure_ascii=False).encode()
        return "read"

    return Target("NDTiff metadata", seeds, mutate, feed)


def _ome_target(folder: Path) -> Target:
    """OME-XML whose attributes, elements and text are not as they should be."""
    tiff = write_tiff(
        folder / "ome.ome.tif", frames(2, 3, side=SIDE), ome=True, metadata={"axes": "ZCYX"}
    )
    with open_tiff(tiff) as described:
        xml = described.encode()
    tokens = [
        b"<!DOCTYPE x>",
        b"<!ENTITY a 'b'>",
        b"&lt;",
        b"&#0;",
        b"&#x110000;",
        b"]]>",
        b"<![CDATA[",
    ]
    tokens += [b'IFD="0"', b'SizeZ="999999999"', b'PlaneCount="999999999"', b"<TiffData/>" * 50]
    tokens += [
        b"<a>" * 3000,
        b"<BinaryOnly MetadataFile='/etc/passwd'/>",
        b"<Image>",
        "\u2029".encode(),
    ]

    def mutate(content: bytes, rng: Random) -> bytes:
        if rng.random() < 0.4:
            return damaged(content, rng, tokens=tokens)
        root = ElementTree.fromstring(content)
        for _ in range(rng.randint(1, 3)):
            _bend_element(rng.choice(list(root.iter())), rng)
        return ElementTree.tostring(root, encoding="unicode").encode("utf-8", "replace")

    def feed(data: bytes) -> str:
        found = from_ome(data.decode("utf-8", "replace"), 6, tiff.name, str(tiff))
        if found is None:
            return "other XML"
        pages = [frame.page for frame in found.frames]
        assert len(set(pages)) == len(pages) <= MAX_FRAMES
        assert min(pages) >= 0
        return "read"

    return Target("OME-XML", [xml], mutate, feed)


@contextlib.contextmanager
def open_tiff(path: Path) -> Iterator[str]:
    """The description of a TIFF's first page."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        yield page.description


def _bend_element(element: ElementTree.Element, rng: Random) -> None:
    odd = (
        "",
        "-1",
        "0",
        "1",
        "7",
        "999999999",
        "1e9",
        "0x1",
        "²",
        "nan",
        "inf",
        "XYZTC",
        "XYZ",
        "zz",
    )
    children = list(element)
    match rng.randrange(5):
        case 0 | 1 if element.attrib:
            element.set(rng.choice(sorted(element.attrib)), rng.choice(odd))
        case 2 if element.attrib:
            del element.attrib[rng.choice(sorted(element.attrib))]
        case 3 if children:
            element.remove(rng.choice(children))
        case _ if children:
            element.extend([rng.choice(children)] * rng.randint(1, 3))
        case _:
            element.text = rng.choice(odd)


#: Every reader of files; each makes its good inputs in a folder of its own.
TARGETS: dict[str, Callable[[Path], Target]] = {
    **{kind: partial(_file_target, kind) for kind in VICTIMS},
    "NDTiff index fields": _index_target,
    "NDTiff metadata": _metadata_target,
    "OME-XML": _ome_target,
}


@pytest.mark.parametrize("kind", TARGETS)
def test_a_damaged_file_is_an_error_or_reads_as_what_it_was(tmp_path: Path, kind: str) -> None:
    report = fuzz(TARGETS[kind](tmp_path), ROUNDS)
    assert not report.defects, report.defects[0].data[:500]
    # Both happen, or the mutations do not reach what they are for.
    refused = sum(n for outcome, n in report.outcomes.items() if outcome.endswith("Error"))
    assert refused > ROUNDS // 20
    assert report.inputs - refused > ROUNDS // 50


def test_damaged_files_are_closed_again(tmp_path: Path) -> None:
    """Windows would not let a user delete or replace a file that is still open."""
    target = _file_target("ImageJ", tmp_path)
    with warnings.catch_warnings(record=True) as caught, judging():
        # Python says so when it has to close a forgotten file itself.
        warnings.simplefilter("always", ResourceWarning)
        for index in range(40):
            assert judge(target, target.draw(1, index))[0] != "defect"
        gc.collect()
    # Garbage of earlier tests may be collected here as well: it is not meant.
    forgotten = [str(warning.message) for warning in caught]
    assert [message for message in forgotten if str(tmp_path) in message] == []


def test_a_frame_that_would_overlap_its_metadata_is_refused(tmp_path: Path) -> None:
    """One flipped bit in an index of one frame (the others are not in it yet): half as wide again."""
    path = write_z_dataset(tmp_path / "run", frames(5, side=SIDE))
    index = path / "NDTiff.index"
    content = index.read_bytes()
    at = content.index(b".tif") + 8
    assert int.from_bytes(content[at : at + 4], "little") == SIDE[1]
    index.write_bytes(content[:at] + bytes([48]) + content[at + 1 : at + 28])
    with pytest.raises(InputError), open_dataset(path) as recording:
        nth(recording, 0)
