"""What a file is that is not what was expected, by its first bytes, and the way out."""

from __future__ import annotations

import re
from pathlib import Path

HEAD_BYTES = 512
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "RAR",
}
ZIP = b"PK\x03\x04"
# Names of kinds by where their mark stands, and what it is.
KINDS = {
    (0, b"\x89HDF"): "an HDF5 file",
    (0, b"\x93NUMPY"): "a NumPy array",
    (0, b"PAR1"): "a Parquet file",
    (0, b"%PDF"): "a PDF",
    (0, b"\x89PNG"): "a PNG picture",
    (0, b"\xff\xd8\xff"): "a JPEG picture",
    (128, b"DICM"): "a DICOM image",
}
TAR = (257, b"ustar")
MAX_SHOWN = 60


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file; those of one that cannot be read raise OSError."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def describe_foreign(head: bytes, expected: str, inside: str) -> str | None:
    """Say what a file is and the way out, where its first bytes tell that it is not what was expected.

    Args:
        head: its first ``HEAD_BYTES`` bytes.
        expected: what should be there, such as "a checkpoint of PyTorch".
        inside: what an archive holds in its place, such as "the checkpoint".

    Returns:
        A part of a sentence such as "text, which begins ...", or None where the bytes tell nothing.
    """
    if not head:
        return "an empty file: fetch it again"
    if head.startswith(LFS_POINTER):
        size = re.search(rb"\nsize (\d+)", head)
        told = f" of {size[1].decode()} bytes" if size else ""
        return f"a git-lfs pointer, which stands for a file{told}: fetch that with git lfs pull"
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            return f"compressed by {name}: unpack it, and name {inside} in it"
    if head.startswith(ZIP):
        return f"a zip archive: unpack it, and name {inside} in it"
    if head[TAR[0] :].startswith(TAR[1]):
        return f"a tar archive: unpack it, and name {inside} in it"
    for (start, magic), name in KINDS.items():
        if head[start:].startswith(magic):
            return f"{name}, expected {expected}"
    return _describe_text(head, expected)


def _describe_text(head: bytes, expected: str) -> str | None:
    text = head.decode("utf-8-sig", "ignore").strip()
    if text.startswith("<?xml"):
        return f"XML, as a store of files answers that has no such file, expected {expected}: fetch it again"
    if text.startswith("<"):
        return (
            "a web page, not the file that it leads to: download it again, in a browser where the page asks "
            "for something"
        )
    if any((byte < 32 and byte not in b"\t\n\r") or byte == 127 for byte in head) or not _is_utf8(head):
        return None
    begins = f"text, which begins {text[:MAX_SHOWN]!r}"
    return f"{begins}, expected {expected}: name another file, or fetch this one again"


def _is_utf8(head: bytes) -> bool:
    """Tell whether bytes are UTF-8; those of a whole head may end within a character."""
    for left_out in range(4 if len(head) == HEAD_BYTES else 1):
        try:
            head[: len(head) - left_out].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return True
    return False
