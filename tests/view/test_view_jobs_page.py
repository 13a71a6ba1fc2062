"""Jobs on the page in a real headless Chromium, as reached by screen reader and keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from calibrated_on_the_page import SWEEP, bead_microscope
from live import quick_settings, stack, write_stack
from playwright.sync_api import Browser, Page, expect
from view_browser import DESK, PHONE, eventually, open_page
from view_process import view_of

JOB_MS = 180_000.0
NOBODY = "tcp://127.0.0.1:9"


@pytest.fixture
def view(tmp_path: Path) -> Iterator[str]:
    """Address of a view whose jobs keep their state in the test's folder."""
    settings = quick_settings(tmp_path, endpoint=NOBODY)
    with view_of(NOBODY, settings=settings) as port:
        yield f"http://127.0.0.1:{port}/"


def start(page: Page, command: str, path: str = "") -> None:
    """Fill in the form with the keyboard, and wait until the job has ended."""
    page.get_by_label("What to do").select_option(command)
    page.locator("#job-path").fill(path)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=3, name=f"{command} {path}".strip())).to_be_visible()
    expect(page.locator("#job-spoken")).to_have_text("done", timeout=JOB_MS)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_dataset_is_processed_and_reported_with_the_keyboard(
    browser: Browser, view: str, tmp_path: Path
) -> None:
    raw = str(write_stack(tmp_path / "cells_1.tif", stack(6)))
    with open_page(browser, view) as page:
        page.keyboard.press("j")
        dialog = page.get_by_role("dialog", name="Jobs")
        expect(dialog).to_be_visible()
        expect(page.get_by_label("What to do")).to_be_focused()
        start(page, "process", raw)
        expect(page.get_by_role("region", name="Output")).to_contain_text("cells_1_refocused")
        expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
        start(page, "report", raw)
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="Open the report").click()
        expect(opened.value).to_have_title("cells_1_refocused: refocusing report")
        listed = page.get_by_role("list", name="All jobs, newest first").get_by_role("button")
        expect(listed).to_have_text(
            ["report cells_1.tif: done", "process cells_1.tif: done"], use_inner_text=True
        )
        listed.last.press("Enter")
        expect(page.get_by_role("heading", level=3, name=f"process {raw}")).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()


@pytest.mark.timeout(300)
def test_what_doctor_found_is_a_list_with_advice(browser: Browser, view: str) -> None:
    with open_page(browser, view) as page:
        page.get_by_role("button", name="Jobs").click()
        start(page, "doctor")
        found = page.get_by_role("list", name="What doctor found").get_by_role("listitem")
        expect(found.filter(has_text="Python")).to_contain_text("good")
        expect(found.filter(has_text="refocusd run starts it")).to_have_count(1)


def test_a_job_runs_until_it_is_cancelled(browser: Browser, view: str) -> None:
    with open_page(browser, view) as page:
        page.keyboard.press("j")
        page.get_by_label("What to do").select_option("doctor")
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("progressbar")).to_be_visible()
        expect(page.locator("#jobs-open")).to_have_text("Jobs…")
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#job-spoken")).to_have_text("cancelled", timeout=JOB_MS)
        expect(page.locator("#jobs-open")).to_have_text("Jobs")


def test_a_wrong_path_is_reported_beside_the_field(
    browser: Browser, view: str, tmp_path: Path
) -> None:
    with open_page(browser, view) as page:
        page.keyboard.press("j")
        page.get_by_label("What to do").select_option("verify")
        path = page.get_by_label("Folder or file of the dataset")
        # Characters that are shortcuts elsewhere are ordinary text here; the quotes are those of
        # Explorer's "Copy as path".
        path.press_sequentially(f'"{tmp_path}/jd?"')
        page.keyboard.press("Enter")
        expect(
            page.get_by_role("alert").filter(has_text=f"{tmp_path}/jd? does not exist")
        ).to_be_visible()
        expect(page.get_by_role("checkbox", name="quick")).to_be_visible()
        expect(page.get_by_label("Model", exact=True)).to_be_hidden()


def test_paths_and_models_are_offered(browser: Browser, view: str, tmp_path: Path) -> None:
    (tmp_path / "cells_7").mkdir()
    with open_page(browser, view) as page:
        page.keyboard.press("j")
        page.locator("#job-path").fill(f"{tmp_path}/")
        offered = page.locator(f'#job-paths option[value="{tmp_path / "cells_7"}"]')
        expect(offered).to_have_count(1)
        page.get_by_label("Model", exact=True).select_option("live-nuclei")
        expect(page.locator("#job-model-about")).to_contain_text("nuclei")


@pytest.mark.timeout(400)
def test_the_microscope_is_measured_after_a_dry_run_and_its_profile_used(
    browser: Browser, view: str, tmp_path: Path
) -> None:
    config = bead_microscope(tmp_path)
    with open_page(browser, view) as page:
        page.keyboard.press("j")
        page.get_by_label("What to do").select_option("calibrate")
        page.get_by_label("From", exact=True).select_option("microscope")
        expect(page.locator("#job-path")).to_be_hidden()
        for label, value in (
            ("Lowest z", SWEEP["z_from"]),
            ("Highest z", SWEEP["z_to"]),
            ("Step in z", SWEEP["z_step"]),
            ("Lowest safe z", -20),
            ("Highest safe z", 20),
            ("Exposure", SWEEP["exposure_ms"]),
            ("Pixel size", SWEEP["pixel_um"]),
            ("Hardware configuration", config),
            ("Profile to write", tmp_path / "scope.json"),
        ):
            page.get_by_label(label).fill(str(value))
        page.keyboard.press("Enter")
        state = page.locator("#job-spoken")
        expect(
            page.get_by_role("heading", level=3, name="calibrate focus (dry run)")
        ).to_be_visible()
        expect(state).to_have_text("done", timeout=JOB_MS)
        expect(page.get_by_role("region", name="Output")).to_contain_text("nothing was moved")
        assert not (tmp_path / "scope_raw").exists()
        page.get_by_role("button", name="Start: the microscope moves").press("Enter")
        expect(page.get_by_role("button", name="Use this profile")).to_be_visible(timeout=JOB_MS)
        picture = page.get_by_role("img", name="Figures of the profile")
        expect(picture).to_be_visible()
        eventually(lambda: picture.evaluate("e => e.naturalWidth"), "the picture")
        page.get_by_role("button", name="Use this profile").press("Enter")
        expect(page.get_by_role("heading", level=3, name="calibrate use")).to_be_visible()
        expect(state).to_have_text("done", timeout=JOB_MS)
    assert len(list((tmp_path / "calibrations").glob("scope-*.json"))) == 1


def test_only_the_fields_that_a_measurement_has_are_shown(
    browser: Browser, view: str, tmp_path: Path
) -> None:
    with open_page(browser, view) as page:
        page.keyboard.press("j")
        page.get_by_label("What to do").select_option("calibrate")
        group = page.get_by_role("group", name="Calibration")
        page.get_by_label("Measure", exact=True).select_option("camera")
        expect(page.get_by_label("Recording in the dark")).to_be_visible()
        expect(group.get_by_label("Recording with the light on")).to_be_visible()
        expect(group.get_by_label("Lowest z")).to_be_hidden()
        page.get_by_label("From", exact=True).select_option("microscope")
        expect(group.get_by_text("no specimen in the field")).to_be_visible()
        expect(page.get_by_role("button", name="Dry run")).to_be_visible()
        page.get_by_label("What to do").select_option("export")
        expect(group).to_be_hidden()
        page.locator("#job-path").fill(f"{tmp_path}/cells_1")
        expect(page.get_by_label("File to write")).to_have_value(f"{tmp_path}/cells_1.ome.tif")
        page.get_by_label("File to write").fill(f"{tmp_path}/mine.ome.tif")
        page.locator("#job-path").fill(f"{tmp_path}/cells_2")
        expect(page.get_by_label("File to write")).to_have_value(f"{tmp_path}/mine.ome.tif")


@pytest.mark.parametrize("command", ["process", "calibrate"])
@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_jobs_fit_the_screen(
    browser: Browser, view: str, size: tuple[int, int], scheme: str, command: str
) -> None:
    with open_page(browser, view, size, color_scheme=scheme) as page:
        page.get_by_role("button", name="Jobs").click()
        page.get_by_label("What to do").select_option(command)
        if command == "calibrate":
            page.get_by_label("From", exact=True).select_option("microscope")
        dialog = page.locator("#jobs")
        for control in dialog.locator("button:visible, select:visible, input:visible").all():
            box = control.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= size[0]
        assert dialog.evaluate("e => e.scrollWidth <= e.clientWidth")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= size[0]
