"""OME-XML as other programs write it: sets of files, aborted acquisitions, odd orders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from recordings_on_disk import Frames, assert_reads, frames, write_tiff

from refocusd.errors import InputError
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import canonical_axes

pytestmark = pytest.mark.fast

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def ome(tiff_data: str, sizes: str, order: str = "XYZCT", root: str = "", extra: str = "") -> str:
    """OME-XML of one image of 32×24 px."""
    return (
        f'<?xml version="1.0"?><OME xmlns="{NAMESPACE}" {root}><Image ID="Image:0" Name="i">'
        f'<Pixels ID="Pixels:0" Type="uint16" DimensionOrder="{order}" SizeX="32" SizeY="24" '
        f"{sizes}>{extra}{tiff_data}</Pixels></Image></OME>"
    )


def write(path: Path, stack: Frames, xml: str) -> Path:
    return write_tiff(path, stack, description=xml, metadata=None)


SIZES = 'SizeZ="3" SizeC="1" SizeT="2"'


@pytest.mark.parametrize("order", ["XYZCT", "XYTCZ"])
def test_planes_come_in_the_order_that_the_xml_names(tmp_path: Path, order: str) -> None:
    stack = frames(6)
    path = write(tmp_path / "a.ome.tif", stack, ome("<TiffData/>", SIZES, order))
    places = (
        [(t, z) for t in range(2) for z in range(3)]
        if order == "XYZCT"
        else [(t, z) for z in range(3) for t in range(2)]
    )
    with open_dataset(path) as recording:
        expected = {
            canonical_axes({"time": t, "z": z}): plane
            for (t, z), plane in zip(places, stack, strict=True)
        }
        assert_reads(recording, expected)


def test_an_aborted_acquisition_has_the_planes_that_its_xml_lists(tmp_path: Path) -> None:
    stack = frames(4)
    listed = "".join(
        f'<TiffData IFD="{page}" FirstT="{page // 3}" FirstZ="{page % 3}"/>' for page in range(4)
    )
    path = write(tmp_path / "a.ome.tif", stack, ome(listed, SIZES))
    with open_dataset(path) as recording:
        expected = {
            canonical_axes({"time": page // 3, "z": page % 3}): stack[page] for page in range(4)
        }
        assert_reads(recording, expected)


def test_a_set_of_files_is_read_as_a_folder_and_each_file_for_itself(tmp_path: Path) -> None:
    stack = frames(2, 3)
    listed = "".join(
        f'<TiffData FirstT="{t}" IFD="0" PlaneCount="3">'
        f'<UUID FileName="t{t}.ome.tif">urn:uuid:{t}</UUID></TiffData>'
        for t in range(2)
    )
    for t in range(2):
        xml = ome(listed, SIZES, root=f'UUID="urn:uuid:{t}"')
        write(tmp_path / f"t{t}.ome.tif", stack[t], xml)
    with open_dataset(tmp_path) as recording:
        expected = {
            canonical_axes({"time": t, "z": z}): stack[t, z] for t in range(2) for z in range(3)
        }
        assert_reads(recording, expected)
    with open_dataset(tmp_path / "t1.ome.tif") as recording:
        assert_reads(recording, {f'{{"z":{z}}}': stack[1, z] for z in range(3)})


def pixels_only(path: Path, pixels: Frames, described_in: str) -> Path:
    """A file of a set whose description is in another file."""
    elsewhere = f'<BinaryOnly MetadataFile="{described_in}" UUID="urn:uuid:x"/>'
    return write(
        path, pixels, f'<OME xmlns="{NAMESPACE}" UUID="urn:uuid:{path.name}">{elsewhere}</OME>'
    )


def of_set(positions: int, channels: int, names: str) -> tuple[str, list[str]]:
    """OME-XML of a set with a file for each channel of each position, and the files' names."""
    files = [names.format(p=p, c=c) for p in range(positions) for c in range(channels)]
    images = ""
    for p in range(positions):
        blocks = "".join(
            f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="{names.format(p=p, c=c)}">'
            f"urn:uuid:{names.format(p=p, c=c)}</UUID></TiffData>"
            for c in range(channels)
        )
        pixels = (
            '<Pixels ID="Pixels:0" Type="uint16" DimensionOrder="XYZCT" SizeX="32" SizeY="24" '
            f'SizeZ="1" SizeT="1" SizeC="{channels}">{blocks}</Pixels>'
        )
        images += f'<Image ID="Image:{p}" Name="well {p}">{pixels}</Image>'
    return f'<OME xmlns="{NAMESPACE}">{images}</OME>', files


@pytest.mark.parametrize("opened", ["set.companion.ome", "."])
def test_files_with_pixels_only_are_read_by_their_companion(tmp_path: Path, opened: str) -> None:
    # File names sort differently from positions: only the companion says which is which.
    xml, files = of_set(2, 2, "c{c}-of-{p}.ome.tif")
    stack = frames(4)
    for name, plane in zip(files, stack, strict=True):
        pixels_only(tmp_path / name, plane[None], "set.companion.ome")
    (tmp_path / "set.companion.ome").write_text(xml, encoding="utf-8")
    expected = {canonical_axes({"position": n // 2, "channel": n % 2}): stack[n] for n in range(4)}
    with open_dataset(tmp_path / opened) as recording:
        assert_reads(recording, expected)
        assert recording.name in ("set", tmp_path.name)
        metadata = recording.metadata({"position": 1, "channel": 0})
    assert metadata["PositionName"] == "well 1"


def test_one_file_of_a_set_may_describe_the_others(tmp_path: Path) -> None:
    xml, files = of_set(1, 2, "c{c}.ome.tif")
    stack = frames(2)
    write(tmp_path / files[0], stack[:1], xml)
    pixels_only(tmp_path / files[1], stack[1:], files[0])
    with open_dataset(tmp_path) as recording:
        assert_reads(recording, {f'{{"channel":{c}}}': stack[c] for c in range(2)})


def test_a_set_that_is_not_whole_says_which_file_is_missing(tmp_path: Path) -> None:
    xml, files = of_set(1, 2, "c{c}.ome.tif")
    pixels_only(tmp_path / files[0], frames(1), "set.companion.ome")
    with pytest.raises(InputError, match=r"'set\.companion\.ome', which is not beside it: copy"):
        open_dataset(tmp_path / files[0])
    (tmp_path / "set.companion.ome").write_text(xml, encoding="utf-8")
    with pytest.raises(
        InputError, match=r"not beside it, such as c1\.ome\.tif: copy the whole set"
    ):
        open_dataset(tmp_path / "set.companion.ome")


def test_no_file_that_the_xml_names_is_opened(tmp_path: Path) -> None:
    """A path in a downloaded file's metadata must not lead out of the folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_tiff(elsewhere / "other.tif", frames(3))
    listed = (
        '<TiffData IFD="0" PlaneCount="3"><UUID FileName="elsewhere/other.tif">u</UUID></TiffData>'
    )
    path = write(tmp_path / "a.ome.tif", frames(3), ome(listed, SIZES))
    with pytest.raises(InputError, match="describes none of its 3 pages"):
        open_dataset(path)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (ome("", 'SizeZ="5" SizeC="1" SizeT="1"'), "promises 5 planes, and it has 0"),
        (ome('<TiffData IFD="5" PlaneCount="2"/>', SIZES), "promises 6 planes, and it has 2"),
        (ome('<TiffData IFD="0"/><TiffData IFD="0" FirstZ="1"/>', SIZES), "gives a page twice"),
        (ome('<TiffData IFD="0" FirstZ="3"/>', SIZES), "outside of its sizes"),
        (ome('<TiffData IFD="0"/><TiffData IFD="1"/>', SIZES), "two frames with the axes"),
        (ome('<TiffData IFD="-1"/>', SIZES), "IFD is '-1'"),
        (ome("<TiffData/>", SIZES, "YXZCT"), "dimension order 'YXZCT'"),
        (ome("<TiffData/>", 'SizeZ="0" SizeC="1" SizeT="2"'), "without SizeZ"),
        (ome("<TiffData/>", 'SizeZ="99999999" SizeC="9999999" SizeT="1"'), "promises"),
        (
            f'<OME xmlns="{NAMESPACE}"><BinaryOnly MetadataFile="main.ome.tif" UUID="u"/></OME>',
            "described in 'main.ome.tif'",
        ),
        (f'<OME xmlns="{NAMESPACE}">' + "<a>" * 50_000, "unreadable OME-XML"),
    ],
)
def test_xml_that_does_not_fit_the_file_is_an_error(tmp_path: Path, xml: str, message: str) -> None:
    path = write(tmp_path / "a.ome.tif", frames(6), xml)
    with pytest.raises(InputError, match=message):
        open_dataset(path)


@pytest.mark.parametrize(
    "listed",
    [
        "<TiffData/>",
        '<TiffData IFD="0" PlaneCount="9"/>',
        "".join(f'<TiffData IFD="{n}" FirstZ="{n % 3}" FirstT="{n // 3}"/>' for n in range(9)),
    ],
)
def test_planes_that_are_promised_behind_the_last_page_are_lost(
    tmp_path: Path, listed: str
) -> None:
    stack = frames(6)
    xml = ome(listed, 'SizeZ="3" SizeC="1" SizeT="3"')
    with open_dataset(write(tmp_path / "a.ome.tif", stack, xml)) as recording:
        lost = [key for key in recording if recording.unfit(key)]
        assert lost == [f'{{"time":2,"z":{z}}}' for z in range(3)]
        np.testing.assert_array_equal(recording.read({"time": 1, "z": 2}).pixels, stack[5])
