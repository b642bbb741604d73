"""Self-contained HTML pages: text from strangers stays text, pictures lie inside, nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sbim_deploy.io.atomic import replacing

MAX_TEXT = 400


def text(value: object) -> str:
    """Return a value as HTML text or attribute, shortened to 400 characters.

    What cannot be printed, such as control characters, half surrogates and marks that turn the direction of
    writing, becomes the replacement character.
    """
    shown = "".join(each if each.isprintable() else "\ufffd" for each in str(value))
    return html.escape(shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "…")


def table(rows: Sequence[tuple[object, object]]) -> str:
    """Return a table of names and values, escaped."""
    cells = (f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>' for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """Return (rows, columns) grey or (rows, columns, 3) coloured pixels as the address of a PNG picture."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def write_page(path: Path, title: str, style: str, script: str, body: str) -> None:
    """Write a page whose policy lets a browser run this script alone, and fetch nothing.

    Args:
        path: the file.
        title: plain text; style, script and body are inserted as they are.
        style: CSS.
        script: JavaScript, run after the body.
        body: HTML.

    Raises:
        InputError: the file cannot be written.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{body}\n<script>{script}</script>\n</body>\n</html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
