"""What the site shows beside docs/: README, notebooks, the page in the browser, and files that pages link to.

Pages stay as a repository's host shows them, with relative links. Links that leave docs/ are followed here:
to a page of the site where there is one, else to a copy of the file.
"""

from __future__ import annotations

import base64
import json
import os
import posixpath
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from run_notebook import run_notebook

ROOT = Path(__file__).parents[2]
# Pages that stand elsewhere in the repository, by their place in the site.
ELSEWHERE = {
    "index.md": "README.md",
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "demo-model.md": "src/sbim_deploy/assets/demo/MODEL_CARD.md",
}
NOTEBOOKS = "examples/notebooks"
ELSEWHERE |= {
    f"notebooks/{path.stem}.md": f"{NOTEBOOKS}/{path.name}" for path in (ROOT / NOTEBOOKS).glob("*.ipynb")
}
COPIES = "repository"
EXECUTE = "EXECUTE_NOTEBOOKS"  # set by make site: the notebooks are run, and their outputs are shown
TRY = (
    "TRY_PAGE"  # set by make site: the page of docs/try is built into the site, where its packages can be had
)
TRY_FOLDER = "try"
BROWSER = "browser.md"
# Docstrings name things as Sphinx does.
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):(?=<code>)")
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def notebook_page(notebook: dict[str, Any]) -> str:
    """Return a notebook as a page: its text, its code, and the outputs that it has."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            parts.append(f"```python\n{source}\n```")
            parts += [_output(output) for output in cell["outputs"]]
    return "\n\n".join(part for part in parts if part)


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        image = "".join("".join(data["image/png"]).split())
        base64.b64decode(image, validate=True)
        return f"![what the cell draws](data:image/png;base64,{image})"
    text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
    return f"```text\n{text}\n```" if text else ""


def executed(path: Path) -> dict[str, Any]:
    """Return a notebook with its outputs, by running it where ``EXECUTE_NOTEBOOKS`` says so."""
    if not os.environ.get(EXECUTE):
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return document
    with tempfile.TemporaryDirectory() as folder:
        return run_notebook(path, Path(folder))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand elsewhere in the repository."""
    for place, name in ELSEWHERE.items():
        path = ROOT / name
        is_notebook = path.suffix == ".ipynb"
        text = notebook_page(executed(path)) if is_notebook else path.read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=text))
    return files


def try_link(built: str | None) -> str:
    """Return what the page about the browser begins with: the way to the page, or why it is not here."""
    if built is not None:
        return f"This site was built without the page: {built}.\n\n"
    # No link of Markdown: mkdocs knows no file of the page.
    return (
        f'**<a href="{TRY_FOLDER}/index.html">Open the page</a>** from a web server, such as that of '
        "`python -m http.server -d build/site`: browsers start no WebAssembly from a file.\n\n"
    )


def build_try_page(folder: Path) -> str | None:
    """Build the page that reconstructs in the browser; return why not, where that cannot be done here."""
    sys.path.insert(0, str(ROOT / "docs" / "try"))
    try:
        from build_page import build

        build(folder)
    except SystemExit as error:  # which says in one line what is missing
        shutil.rmtree(folder, ignore_errors=True)
        return " ".join(str(error).split())
    finally:
        sys.path.pop(0)
    return None


def on_pre_page(page: Page, config: MkDocsConfig, files: Files) -> Page:
    """Build the page in the browser once, before the page that leads there is written."""
    if page.file.src_uri == BROWSER and os.environ.get(TRY):
        config.extra[TRY] = build_try_page(Path(config.site_dir) / TRY_FOLDER)
        if config.extra[TRY] is not None:
            print(f"the site is built without {TRY_FOLDER}/: {config.extra[TRY]}", file=sys.stderr)
    return page


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Follow the links of a page that leave docs/, and lead to the page in the browser."""
    if TRY in config.extra and page.file.src_uri == BROWSER:
        title, _, text = markdown.partition("\n\n")
        markdown = f"{title}\n\n{try_link(config.extra[TRY])}{text}"
    place = page.file.src_uri
    source = ELSEWHERE.get(place, f"docs/{place}")
    home = posixpath.dirname(source)

    def follow(link: re.Match[str]) -> str:
        start, target, anchor, end = link.groups()
        if "://" in target or target.startswith(("mailto:", "data:")):
            return link.group()
        found = posixpath.normpath(posixpath.join(home, target))
        uri = _place_in_site(found, config, files)
        return f"{start}{posixpath.relpath(uri, posixpath.dirname(place) or '.')}{anchor or ''}{end}"

    followed = LINK.sub(follow, markdown)
    if source.endswith(".ipynb"):
        copy = posixpath.relpath(_copied(source, config, files), posixpath.dirname(place))
        followed += f"\n\n[Download this notebook]({copy})\n"
    return followed


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave out the roles before the names in docstrings."""
    return ROLE.sub("", html)


def _place_in_site(name: str, config: MkDocsConfig, files: Files) -> str:
    """Return where a file of the repository is in the site; it is copied there if it is not."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    for place, elsewhere in ELSEWHERE.items():
        if name == elsewhere:
            return place
    source = ROOT / name
    if not source.exists():
        return name  # which mkdocs reports
    return _folder_page(source, name, config, files) if source.is_dir() else _copied(name, config, files)


def _copied(name: str, config: MkDocsConfig, files: Files) -> str:
    """Return where the copy of a file of the repository is; Markdown as text, since it is no page."""
    source = ROOT / name
    uri = f"{COPIES}/{name}{'.txt' if source.suffix == '.md' else ''}"
    if files.get_file_from_path(uri) is None:
        copy = File.generated(config, uri, abs_src_path=str(source))
        files.append(copy)
        copy.copy_file()
    return uri


def _folder_page(source: Path, name: str, config: MkDocsConfig, files: Files) -> str:
    """Return the page of a folder: its README where it has one, and its files."""
    uri = f"{COPIES}/{name}/index.html"
    if files.get_file_from_path(uri) is None:
        paths = sorted(path for path in source.iterdir() if path.is_file())
        copies = [posixpath.basename(_copied(f"{name}/{path.name}", config, files)) for path in paths]
        items = "".join(f'<li><a href="{copy}">{copy}</a></li>' for copy in copies)
        html = f"<!doctype html><meta charset=utf-8><title>{name}</title><h1>{name}</h1><ul>{items}</ul>"
        page = File.generated(config, uri, content=html)
        files.append(page)
        page.copy_file()
    return uri
