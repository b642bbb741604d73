"""Files that are not what was expected are called what they are, with the way out."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sbim_deploy.io.foreign import describe_foreign

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 117964800\n"
README = Path(__file__).parents[2] / "README.md"


def told(head):
    return describe_foreign(head[:512], "an HDF5 file", "the file")


def zip_archive():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.h5", b"")
    return stream.getvalue()


def tar_archive():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.h5"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"", "an empty file: fetch it again"),
        (LFS, "a git-lfs pointer, which stands for a file of 117964800 bytes: fetch that with git lfs pull"),
        (gzip.compress(b"x"), "compressed by gzip: unpack it, and name the file in it"),
        (zip_archive(), "a zip archive: unpack it, and name the file in it"),
        (tar_archive(), "a tar archive: unpack it, and name the file in it"),
        (b"%PDF-1.7\n", "a PDF, expected an HDF5 file"),
        (bytes(128) + b"DICM", "a DICOM image, expected an HDF5 file"),
        (b"<!doctype html><title>Sign in</title>", "a web page, not the file that it leads to"),
        (b'<?xml version="1.0"?><Error/>', "XML, as a store of files answers"),
        ("Größe: 3 mm\n".encode(), "text, which begins 'Größe: 3 mm', expected an HDF5 file"),
    ],
)
def test_a_kind_is_named_by_its_first_bytes(head, said):
    assert told(head).startswith(said)


def test_a_character_that_the_head_cuts_leaves_text_text():
    for start in range(4):
        assert told(b"a" * start + "€".encode() * 200).startswith("text, which begins")


@pytest.mark.parametrize("head", [bytes(64), np.random.default_rng(0).bytes(512), b"\xff\xfe\x00"])
def test_bytes_that_tell_nothing_are_nothing(head):
    assert told(head) is None


@pytest.mark.parametrize("command", [("recon", "-o", "out.h5"), ("info",)])
def test_a_text_file_as_raw_data_is_called_text(cli, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli(command[0], README, *command[1:])
    assert done.code == 2
    assert "README.md: is text, which begins '# sbim-deploy" in done.error_line
    assert "damaged" not in done.error_line
