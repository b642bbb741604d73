"""The page, by its text and, where there is a browser, by what it does when it is opened."""

import base64
import io
import json
import re
import shutil
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
from PIL import Image

from chromium import CHROMIUM, Chromium
from sbim_deploy.errors import InputError
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mri.metrics import psnr
from sbim_deploy.pages import report
from sbim_deploy.pages.panels import colour
from sbim_deploy.pages.report import write_report
from sbim_deploy.results.result_file import ResultWriter, open_result
from sbim_deploy.runs.findings import resumed, warnings
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.choice import SamplerChoice

HOSTILE = "<script>alert(1)<b>&\u202e'\"\n.h5"
SETTINGS = ReconSettings(choice=SamplerChoice(steps=3), samples=2, slices=(0, 2))


@pytest.fixture(scope="module")
def made(simulated, tmp_path_factory):
    """A result of a k-space file with a hostile name, its page, and the residuals on the way."""
    folder = tmp_path_factory.mktemp("report")
    kspace, result, page = folder / HOSTILE, folder / "r.h5", folder / "report.html"
    shutil.copy(simulated, kspace)
    residuals = []
    reconstruct_file(kspace, result, SETTINGS, on_residual=lambda *told: residuals.append(told))
    write_report(page, result, residuals)
    return result, page, residuals


@pytest.fixture(scope="module")
def with_truth(made, simulated):
    """The same result's page, with the references of its k-space file."""
    result, page, residuals = made
    told = page.with_name("truth.html")
    with open_source(simulated) as source:
        write_report(told, result, residuals, source=source)
    return told


def write_result(path, n_slices=3, provenance=None, residual=0.05, shape=(8, 8)):
    with ResultWriter(path, {}, range(n_slices), resume=False) as writer:
        for index in range(n_slices):
            image = np.full(shape, index + 1, np.complex64)
            writer.write(index, image, image, residual)
        writer.finish(provenance or {})
    return path


def pictures(page, caption):
    addresses = re.findall(rf'src="data:image/png;base64,([^"]+)" alt="{caption}', page.read_text())
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in addresses]


def test_the_page_holds_the_images_of_the_result(made):
    result, page, _ = made
    with open_result(result) as opened:
        images = np.abs([opened.read_image(position) for position in (0, 1)])
    shown = np.array(pictures(page, "reconstruction"))
    full = np.percentile(images, 99.95)
    np.testing.assert_allclose(shown / 255, (images / full).clip(0, 1), atol=0.003)
    assert [each.shape for each in pictures(page, "standard deviation")] == [(64, 64, 3)] * 2
    assert len(pictures(page, "measured data alone")) == 2


def test_reference_and_error_are_those_of_the_file_on_one_scale_that_is_said(made, with_truth, simulated):
    with open_result(made[0]) as result, open_source(simulated) as source:
        images = np.abs([result.read_image(position) for position in (0, 1)])
        references = np.abs([source.read_reference(index) for index in (0, 1)])
    errors, full = np.abs(images - references), np.percentile(images, 99.95)
    end = np.percentile(errors, 99.8)
    np.testing.assert_allclose(
        np.array(pictures(with_truth, "reference")) / 255, (references / full).clip(0, 1), atol=0.003
    )
    np.testing.assert_array_equal(
        pictures(with_truth, "error"), [colour(each, (0, end), "error") for each in errors]
    )
    text = with_truth.read_text()
    assert f"<span>{100 * end / full:.1f} % of the brightest tissue</span>" in text
    for image, reference in zip(images, references, strict=True):
        assert f"{psnr(image, reference):.1f} dB, SSIM 0." in text


def test_a_reference_that_fastmri_cropped_is_shown_where_it_is_and_black_around(simulated, tmp_path):
    cropped, result = tmp_path / "k.h5", write_result(tmp_path / "r.h5", 4, shape=(64, 64))
    shutil.copy(simulated, cropped)
    with h5py.File(cropped, "r+") as file:
        narrow = file["kspace"][..., 8:56]
        middle = np.abs(file["reference"][:, 8:56, 8:56]).astype(np.float32)
        for name in ("kspace", "mask", "reference", "s_maps"):
            del file[name]
        file["kspace"], file["reconstruction_rss"] = narrow, middle
    with open_source(cropped) as source:
        assert source.reference_is_square
        narrow_result = write_result(tmp_path / "n.h5", 4, shape=(64, 48))
        write_report(tmp_path / "p.html", narrow_result, source=source)
    shown = pictures(tmp_path / "p.html", "reference")[0]
    assert shown.shape == (64, 48)
    assert not shown[:8].any()
    assert shown[8:56].any()
    assert result.exists()


def test_without_a_reference_there_is_none_and_no_error(made):
    text = made[1].read_text()
    assert 'alt="reference' not in text
    assert 'alt="error' not in text
    assert "Reference and error" not in text


def test_the_page_says_what_made_the_images_and_what_to_beware_of(made):
    result, page, _ = made
    text = page.read_text()
    with h5py.File(result) as file:
        provenance = json.loads(file.attrs["provenance"])
    for expected in (
        "RESEARCH USE ONLY",
        provenance["input"]["sha256"],
        provenance["model"]["digest"],
        "onnxruntime",
        "<td>dds</td>",
        "trained on synthetic slices of the MNI152 tissue maps and of label maps of heads, not on patients",
        "2</b><span>samples",
        f"<td>{provenance['measured']['calibration_lines']}</td>",
    ):
        assert expected in text


def test_names_from_files_stay_text(made):
    _, page, _ = made
    text = page.read_text()
    assert text.count("<script") == 1
    assert "&lt;script&gt;alert(1)&lt;b&gt;&amp;\ufffd&#x27;&quot;\ufffd.h5" in text
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")


def test_the_curves_are_the_residuals_and_the_levels_of_the_plan(made):
    _, page, residuals = made
    assert [steps for index, steps, _ in residuals if index == 0] == [0, 1, 2, 3]
    plots = re.findall(r'<svg class="plot".*?</svg>', page.read_text())
    counts = [len(re.search(r'<polyline[^>]* points="([^"]+)"', plot)[1].split()) for plot in plots]
    assert counts == [4, 3]


@pytest.mark.parametrize(
    ("residuals", "words"),
    [
        ([(0, 0, 0.9), (0, 1, 0.3), (0, 2, 0.04)], "1 slice, first sample of each: the median"),
        (
            [(0, 0, 0.9), (0, 1, 0.3), (0, 2, 0.04)],
            "the residual falls with its noise: from 90.0 % to 4.0 %.",
        ),
        ([(0, 0, 0.04), (1, 0, 0.04), (0, 1, 0.05), (1, 1, 0.05)], "2 slices, first sample of each"),
        ([(0, 0, 0.04), (0, 1, 0.05)], "The residual does not fall on the way (from 4.0 % to 5.0 %)"),
    ],
)
def test_the_words_beside_the_residual_are_what_the_plot_shows(made, tmp_path, residuals, words):
    result, _, _ = made
    page = tmp_path / "page.html"
    write_report(page, result, residuals)
    assert words in page.read_text()


def test_a_plot_says_its_values_to_who_cannot_see_it(made, tmp_path):
    result, _, _ = made
    page = tmp_path / "page.html"
    write_report(page, result, [(0, 0, 0.9), (0, 1, 0.3), (0, 2, 0.04)])
    told = "Residual: 0.9 at 0 and 0.04 at 2 (steps of the plan done), between 0.04 and 0.9"
    assert f'aria-label="{told}"' in page.read_text()


def test_a_plan_that_ran_in_one_call_and_a_run_of_another_day_are_said(made, tmp_path):
    result, _, residuals = made
    write_report(tmp_path / "a.html", result)
    assert "reconstructed by an earlier run" in (tmp_path / "a.html").read_text()
    whole = write_result(tmp_path / "whole.h5", provenance={"graph": "reconstruct"})
    write_report(tmp_path / "b.html", whole, [each for each in residuals if each[1] in (0, 3)])
    assert "the start and the end are known" in (tmp_path / "b.html").read_text()


def test_of_many_slices_twelve_are_shown_and_all_are_counted(tmp_path):
    page = tmp_path / "page.html"
    write_report(page, write_result(tmp_path / "r.h5", n_slices=30))
    text = page.read_text()
    assert text.count('alt="reconstruction, slice') == 12
    assert "12 of 30 slices" in text
    assert "Slice 0 " in text
    assert "Slice 29 " in text


def test_large_images_are_reduced(tmp_path):
    page = tmp_path / "page.html"
    write_report(page, write_result(tmp_path / "r.h5", n_slices=1, shape=(1024, 600)))
    assert pictures(page, "reconstruction")[0].shape == (512, 300)


@pytest.mark.parametrize(
    "provenance",
    [
        {},
        {"plan": 3, "measured": [], "timings_s": {"total": "<i>", "slices": 0}, "engine": None},
        {"plan": {"rows": [{"sigma": "x"}, 4]}, "input": {"name": {"a": ["<u>"]}}, "undersampling": "<i>"},
    ],
)
def test_provenance_that_lacks_everything_makes_a_page_too(tmp_path, provenance):
    page = tmp_path / "page.html"
    write_report(page, write_result(tmp_path / "r.h5", provenance=provenance))
    text = page.read_text()
    assert "unknown" in text
    assert not re.search("<[iu]>", text)


@pytest.mark.parametrize(
    ("provenance", "residual", "expected"),
    [
        ({}, 0.9, []),
        ({"slice_notes": {"0": {"noise": 0.1, "doubts": {}}, "x": {"doubts": {"a": "b"}}, "1": 3}}, 0.1, []),
        (
            {
                "slice_notes": {
                    "0": {"doubts": {"motion": "it moved", "clipping": "it is clipped"}},
                    "2": {"doubts": {"motion": "it moved more"}},
                }
            },
            0.1,
            ["motion in slices 0, 2; slice 0: it moved", "slice 0: it is clipped"],
        ),
        (
            {"slice_notes": {str(index): {"doubts": {"motion": "it moved"}} for index in range(20)}},
            0.1,
            ["motion in slices 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more; slice 0: it moved"],
        ),
        ({"timings_s": {"slices": 1}}, 0.1, ["those of 1 of 3 slices, done since"]),
        ({"samples": 2, "slice_notes": {"0": {"maps": "given"}}}, 0.1, []),
        (
            {"samples": 2, "slice_notes": {"0": {"maps": "ESPIRiT"}}},
            0.1,
            ["does not hold the error of the coil maps"],
        ),
        ({"model": {"training_data": "synthetic brains"}}, 0.1, ["trained on synthetic brains, not on"]),
        ({"model": {"training_data": "fastMRI"}}, 0.1, []),
    ],
)
def test_warnings_come_when_they_should(tmp_path, provenance, residual, expected):
    with open_result(write_result(tmp_path / "r.h5", 3, provenance, residual)) as result:
        found = warnings(result.provenance)
        if (remark := resumed(result)) is not None:
            found.append(remark)
    assert len(found) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, found, strict=True))


def test_a_slice_that_is_doubtful_is_flagged_and_the_others_are_not(tmp_path):
    notes = {"0": {"doubts": {}}, "1": {"doubts": {"motion": "it <moved>"}}}
    result = write_result(tmp_path / "r.h5", provenance={"slice_notes": notes}, residual=0.02)
    write_report(tmp_path / "page.html", result)
    text = (tmp_path / "page.html").read_text()
    assert "Slice 1: it &lt;moved&gt;." in text
    assert "residual 2.0 %, motion" in text
    assert text.count("slice flagged") == 1


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path):
    result = write_result(tmp_path / "r.h5")
    with pytest.raises(InputError, match="does not exist"):
        write_report(tmp_path / "nowhere" / "page.html", result)
    assert [path.name for path in tmp_path.iterdir()] == ["r.h5"]


def test_a_run_without_a_report_computes_no_residuals_on_the_way(simulated, tmp_path, monkeypatch):
    from sbim_deploy.mri.sense import Sense

    calls = []
    forward = Sense.forward
    monkeypatch.setattr(Sense, "forward", lambda self, image: calls.append(1) or forward(self, image))
    one = replace(SETTINGS, slices=(0, 1), samples=1)
    reconstruct_file(simulated, tmp_path / "a.h5", one)
    n_plain = len(calls)
    reconstruct_file(simulated, tmp_path / "b.h5", one, on_residual=lambda *_: None)
    assert len(calls) == n_plain + n_plain + 4


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page is opened in no browser")
def test_a_browser_shows_the_page_fetches_nothing_and_finds_no_fault(made, tmp_path):
    _, page, _ = made
    with Chromium(tmp_path / "profile") as browser:
        browser.open(page)
        before = picture_of(browser)
        assert before.std() > 20
        assert browser.evaluate("document.querySelectorAll('img').length") == 6
        assert browser.evaluate(
            "[...document.images].every(each => each.complete && each.naturalWidth === 64)"
        )
        assert browser.evaluate("document.querySelector('h1 + p').textContent").startswith("<script>alert(1)")
        assert browser.evaluate("document.scripts.length") == 1
        # The script found its controls, and the window that it sets is the one that is shown.
        assert browser.evaluate("document.getElementById('controls').hidden") is False
        browser.evaluate("width.value = 20; level.value = 10; width.dispatchEvent(new Event('input'))")
        assert float(browser.evaluate("document.querySelector('feFuncG').getAttribute('slope')")) == 5
        assert picture_of(browser).mean() > before.mean() + 3
        browser.evaluate("document.getElementById('reset').click()")
        assert np.abs(picture_of(browser) - before).mean() < 1
        requested = [each["request"]["url"] for each in browser.heard("Network.requestWillBeSent")]
        faults = [browser.heard(f"{kind}") for kind in ("Runtime.exceptionThrown", "Log.entryAdded")]
        said = browser.heard("Runtime.consoleAPICalled")
    assert {url.split(":")[0] for url in requested} <= {"file", "data"}
    assert [url for url in requested if url.startswith("file")] == [page.as_uri()]
    assert faults == [[], []]
    assert said == []


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page is opened in no browser")
def test_a_browser_without_scripts_shows_the_images_in_their_window(made, tmp_path):
    _, page, _ = made
    with Chromium(tmp_path / "profile") as browser:
        browser.call("Emulation.setScriptExecutionDisabled", value=True)
        browser.open(page)
        assert picture_of(browser).std() > 20
        assert browser.evaluate("document.getElementById('controls').hidden") is True


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page is opened in no browser")
def test_on_a_phone_every_picture_of_a_slice_has_the_same_size(made, tmp_path):
    _, page, _ = made
    with Chromium(tmp_path / "profile") as browser:
        browser.open(page)
        browser.show_as(500)
        widths = browser.widths(".slice img")
        assert len(widths) == 6
        assert np.ptp(widths) < 1
        assert min(widths) > 180
        assert browser.evaluate("document.documentElement.scrollWidth") <= 500


WHEEL = "new WheelEvent('wheel', {ctrlKey: true, deltaY: -1, bubbles: true, cancelable: true, %s})"
AT_QUARTER = """(() => {
  const box = document.querySelector('.frame').getBoundingClientRect();
  const where = {clientX: box.left + box.width / 4, clientY: box.top + box.height / 4, bubbles: true};
  document.querySelector('.frame').dispatchEvent(new MouseEvent('dblclick', where));
})()"""


def seen(browser):
    """Return what each image shows of itself: left, top and size, as fractions of the image."""
    return np.array(
        browser.evaluate(
            "[...document.querySelectorAll('.frame')].map(frame => {"
            " const box = frame.getBoundingClientRect(), image = frame.firstChild.getBoundingClientRect();"
            " return [(box.left - image.left) / image.width, (box.top - image.top) / image.height,"
            " box.width / image.width]; })"
        )
    )


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page is opened in no browser")
def test_all_images_zoom_together_about_the_point_that_is_clicked(with_truth, tmp_path):
    with Chromium(tmp_path / "profile") as browser:
        browser.open(with_truth)
        sizes = browser.widths(".frame")
        np.testing.assert_allclose(seen(browser), [[0, 0, 1]] * 10, atol=1e-3)
        browser.evaluate(AT_QUARTER)
        # Twofold, and what was at a quarter is at a quarter: an eighth lies before it.
        np.testing.assert_allclose(seen(browser), [[1 / 8, 1 / 8, 1 / 2]] * 10, atol=3e-3)
        np.testing.assert_allclose(browser.widths(".frame"), sizes)
        browser.evaluate(
            "document.querySelector('.frame').dispatchEvent("
            "new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}))"
        )
        np.testing.assert_allclose(seen(browser)[:, 0], 1 / 8 + 0.1 / 2, atol=3e-3)
        for _ in range(20):
            browser.evaluate("(zoom.value = 8, zoom.dispatchEvent(new Event('input')))")
        left, top, size = seen(browser).T
        np.testing.assert_allclose(size, 1 / 8, atol=1e-3)
        assert (left >= 0).all()
        assert (top + size <= 1.001).all()
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.evaluate("document.getElementById('reset').click()")
        np.testing.assert_allclose(seen(browser), [[0, 0, 1]] * 10, atol=1e-3)
        browser.evaluate(
            f"document.querySelector('.frame').dispatchEvent({WHEEL % 'clientX: 0, clientY: 0'})"
        )
        np.testing.assert_allclose(seen(browser)[:, 2], 1 / 1.5, atol=1e-3)
        faults = [browser.heard(kind) for kind in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert faults == [[], []]


@pytest.fixture(scope="module")
def with_volume(made, simulated, tmp_path_factory):
    """The page with a NIfTI file of the result beside it."""
    nibabel = pytest.importorskip("nibabel")
    folder = tmp_path_factory.mktemp("volume")
    with open_result(made[0]) as result:
        stack = np.stack([np.abs(result.read_image(position)) for position in (0, 1)], axis=-1)
    nibabel.save(
        nibabel.Nifti1Image(stack[:, :48].astype(np.float32), np.diag([2, 2, 5, 1])), folder / "a&b.nii.gz"
    )
    write_report(folder / "page.html", made[0], made[2], volume=folder / "a&b.nii.gz")
    return folder / "page.html"


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page is opened in no browser")
def test_the_nifti_beside_a_report_opens_in_it_and_nothing_is_fetched(with_volume, tmp_path):
    with Chromium(tmp_path / "profile") as browser:
        browser.open(with_volume)
        browser.evaluate("document.getElementById('open-volume').click()")
        end = time.monotonic() + 60
        while (state := browser.evaluate("volume.dataset.state")) is None and time.monotonic() < end:
            time.sleep(0.2)
        told = browser.evaluate("document.getElementById('volume-told').textContent")
        if "WebGL" in told:
            pytest.skip("Chromium draws no WebGL here")
        assert state == "open", told
        assert told.startswith("a&b.nii.gz in three planes")
        assert browser.evaluate("volume.dataset.shape") == "64 48 2"
        browser.evaluate("document.querySelector('#volume canvas').scrollIntoView()")
        assert picture_of(browser).std() > 20
        requested = [each["request"]["url"] for each in browser.heard("Network.requestWillBeSent")]
        faults = browser.heard("Runtime.exceptionThrown")
        logged = [each["entry"] for each in browser.heard("Log.entryAdded")]
    assert {url.split(":")[0] for url in requested} <= {"file", "data"}
    assert [url for url in requested if url.startswith("file")] == [with_volume.as_uri()]
    assert faults == []
    assert [each for each in logged if each["source"] != "rendering"] == []


def test_a_page_without_a_volume_is_without_its_viewer(made, with_volume):
    assert "niivue" not in made[1].read_text().lower()
    assert len(with_volume.read_text()) > len(made[1].read_text()) + 2_000_000


def test_a_volume_that_is_too_large_for_a_page_is_named_and_left_out(made, tmp_path, monkeypatch):
    (tmp_path / "v.nii").write_bytes(bytes(64))
    monkeypatch.setattr(report, "MAX_VOLUME_BYTES", 63)
    write_report(tmp_path / "page.html", made[0], volume=tmp_path / "v.nii")
    text = (tmp_path / "page.html").read_text()
    assert "too large for this page" in text
    assert "niivue" not in text.lower()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page is opened in no browser")
@pytest.mark.parametrize("width", [500, 700, 1200])
def test_five_pictures_of_a_slice_have_one_size_at_any_width(with_truth, tmp_path, width):
    with Chromium(tmp_path / "profile") as browser:
        browser.open(with_truth)
        browser.show_as(width)
        widths = browser.widths(".slice img")
        assert len(widths) == 10
        assert np.ptp(widths) < 1
        assert min(widths) >= 150
        assert browser.evaluate("document.documentElement.scrollWidth") <= width


def picture_of(browser):
    shot = base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"])
    return np.asarray(Image.open(io.BytesIO(shot)).convert("L"), dtype=float)
