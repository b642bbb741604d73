"""The documentation's site has every page, builds without a warning, and asks the network nothing."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import sbim_deploy
from chromium import CHROMIUM, Chromium

yaml = pytest.importorskip("yaml", reason="yaml is not installed")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
STATE = "document.documentElement.dataset.state"
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
    environment["TRY_PAGE"] = "1"
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
def test_the_page_in_the_browser_is_in_the_site_and_reconstructs_there(site, tmp_path):
    html = (site / "browser.html").read_text(encoding="utf-8")
    if not (site / "try").exists():
        assert "This site was built without the page: npm " in html
        pytest.skip("the packages of the page cannot be fetched here")
    (link,) = re.findall(r'href="?([^" >]+)"?[^>]*>Open the page<', html)
    assert (site / link).is_file()
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    server = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), server) as listening,
        Chromium(tmp_path / "profile") as browser,
    ):
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        browser.visit(f"http://127.0.0.1:{listening.server_port}/{link}")
        for button, wanted in (("demo", "ready"), ("start", "done")):
            browser.evaluate(f"document.getElementById('{button}').click()")
            end = time.monotonic() + 300
            while (state := browser.evaluate(STATE)) not in (wanted, "failed") and time.monotonic() < end:
                time.sleep(0.2)
            assert state == wanted, browser.evaluate("document.body.innerText")
        listening.shutdown()


def test_a_site_without_the_page_s_packages_is_built_and_says_why(monkeypatch, tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    monkeypatch.syspath_prepend(str(DOCS / "site"))
    monkeypatch.syspath_prepend(str(DOCS / "try"))
    import build_page
    import hooks

    def refuse(name, version, integrity):
        raise SystemExit(f"npm cannot fetch {name} {version},\nwhich the page needs")

    monkeypatch.setattr(build_page, "_archive", refuse)
    why = hooks.build_try_page(tmp_path / "try")
    assert why is not None
    assert why.startswith("npm cannot fetch onnxruntime-web ")
    assert not (tmp_path / "try").exists()
    assert f"built without the page: {why}." in hooks.try_link(why)
    assert 'href="try/index.html"' in hooks.try_link(None)


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
