"""The documentation's site has every page, builds without a warning, and asks the network nothing."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sbim_deploy
from chromium import CHROMIUM, Chromium

yaml = pytest.importorskip("yaml", reason="yaml is not installed")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
RESULT = ".md-search-result__link"
API = (DOCS / "api.md").read_text(encoding="utf-8")


def places(items):
    for item in items:
        if isinstance(item, str):
            yield item
        else:
            for below in item.values():
                yield from places(below if isinstance(below, list) else [below])


def test_every_page_is_in_the_navigation_once():
    nav = list(places(CONFIG["nav"]))
    assert len(nav) == len(set(nav))
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "examples" / "notebooks").glob("*.ipynb")}
    elsewhere = {"index.md", "changes.md", "contributing.md", "demo-model.md"}
    assert set(nav) == {path.name for path in DOCS.glob("*.md")} | notebooks | elsewhere


def test_every_public_name_has_its_docstring_in_the_api():
    for name in sbim_deploy.__all__:
        in_errors = hasattr(sbim_deploy.errors, name) and "::: sbim_deploy.errors" in API
        in_plan = name == "Plan" and "::: sbim_deploy.samplers.plan" in API
        assert name == "__version__" or in_errors or in_plan or f"::: sbim_deploy.{name}\n" in API, name


def test_nothing_of_the_theme_comes_from_others():
    assert CONFIG["theme"]["font"] is False
    assert "offline" in CONFIG["plugins"]
    for address in [*CONFIG["extra"]["polyfills"], *CONFIG.get("extra_javascript", ()), *CONFIG["extra_css"]]:
        assert (DOCS / address).is_file()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as make site does, without the notebooks' outputs: they have a test of their own."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed")
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    environment.pop("EXECUTE_NOTEBOOKS", None)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(list(DOCS.glob("*.md")))
    for page in pages:
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(https?:[^\"' >]+)", html)
        loaded += re.findall(r"<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?(https?:[^\"' >]+)", html)
        assert not loaded, f"{page}: {loaded}"


@pytest.mark.slow
def test_the_api_s_page_has_arguments_and_errors(site):
    html = (site / "api.html").read_text(encoding="utf-8")
    for text in ('id="sbim_deploy.load_model"', "map_method", "InputError", "complex64 (rows, columns)"):
        assert text in html, text
    assert ":class:" not in html
    assert "__post_init__" not in html


@pytest.mark.slow
def test_links_that_leave_the_docs_lead_to_copies(site):
    assert (site / "repository" / "examples" / "node" / "reconstruct.mjs").is_file()
    assert (site / "repository" / "examples" / "serving" / "Dockerfile").is_file()
    assert "your-sampler.html" in (site / "notebooks" / "first-reconstruction.html").read_text()


@pytest.mark.slow
def test_search_works_in_a_page_that_is_opened_as_a_file(site, tmp_path):
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert json.loads(index.removeprefix("var __index = "))["docs"]
    with Chromium(tmp_path / "profile") as browser:
        browser.open(site / "index.html")
        browser.evaluate("document.querySelector('[data-md-toggle=search]').click()")
        browser.evaluate(
            "(box => { box.focus(); box.value = 'whitening';"
            " box.dispatchEvent(new KeyboardEvent('keyup')); box.dispatchEvent(new Event('input')) })"
            "(document.querySelector('[data-md-component=search-query]'))"
        )
        found = []
        end = time.monotonic() + 60
        while not found and time.monotonic() < end:
            found = browser.evaluate(f"[...document.querySelectorAll('{RESULT}')].map(link => link.href)")
            time.sleep(0.2)
        assert any("formats.html" in link for link in found), found
        asked = [event["request"]["url"] for event in browser.heard("Network.requestWillBeSent")]
        assert all(url.startswith(("file:", "data:", "blob:", "about:")) for url in asked), asked
        errors = [event["entry"]["text"] for event in browser.heard("Log.entryAdded")]
        assert not [text for text in errors if "Failed" in text or "refused" in text], errors
