import os
from pathlib import Path

import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.study.files import study_files


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    for name in ("a/x.h5", "a/y.h5", "a/notes.md", "a/.hidden.h5", "b/x.h5", "b/z.h5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*inputs: str) -> list[str]:
    return [file.name for file in study_files([Path(each) for each in inputs], Path("out"))]


def test_a_folder_gives_its_files_in_order(tree):
    files = study_files([Path("a")], Path("out"))
    assert [file.kspace for file in files] == [tree / "a/x.h5", tree / "a/y.h5"]
    assert [file.output for file in files] == [tree / "out/x.h5", tree / "out/y.h5"]


def test_a_list_has_a_path_on_each_line_and_comments(tree):
    (tree / "list.txt").write_text("# the first ones\na/y.h5\n\n  b/z.h5  \nnowhere/there.h5\n")
    assert names("list.txt") == ["y.h5", "z.h5", "there.h5"]


def test_folders_lists_and_files_go_together(tree):
    (tree / "list.txt").write_text("b/z.h5\n")
    assert names("a", "list.txt", "c.h5") == ["x.h5", "y.h5", "z.h5", "c.h5"]


def test_a_folder_gives_the_mrd_streams_that_a_server_kept_too(tree):
    (tree / "a/kept.mrd").write_bytes(b"\3\0 and the rest of a stream")
    (tree / "a/images.mrd").write_bytes(b"no stream")
    # The other one is among them too: the study tells why it cannot be read.
    assert names("a") == ["images.h5", "kept.h5", "x.h5", "y.h5"]


def test_files_of_one_name_keep_their_folders(tree):
    assert names("a", "b") == ["a/x.h5", "a/y.h5", "b/x.h5", "b/z.h5"]


def test_files_that_differ_by_their_suffix_alone_have_results_of_their_own(tree):
    assert names("a/x.h5", "a/x.mrd", "a/y.npy") == ["x.h5", "x.mrd.h5", "y.h5"]
    assert names("a/x.npy", "a/x.cfl", "b/x.npy") == ["a/x.npy.h5", "a/x.cfl.h5", "b/x.h5"]


def test_results_are_hdf5_whatever_the_input_is_called(tree):
    assert names("scan.mrd", "a/x.h5") == ["scan.h5", "x.h5"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["a", "a/x.h5"], "a/x.h5: is named twice among the inputs"),
        (["a/x.h5", "a/../a/x.h5"], "is named twice"),
        (["a/x.h5", "a/x.mrd", "a/x.mrd.h5"], "both would be written to"),
        (["a/x.h5", "a/X.h5"], "both would be written to"),
        (["empty"], "empty: holds no files of k-space (.h5, "),
        (["nothing.txt"], "nothing.txt: names no files"),
        (["missing.txt"], "missing.txt: cannot be read"),
        (["binary.txt"], "binary.txt: is not UTF-8 text"),
        (["zeros.txt"], "zeros.txt: expected at most"),
    ],
)
def test_what_cannot_be_a_study_is_refused_in_one_line(tree, inputs, message):
    (tree / "empty").mkdir()
    (tree / "nothing.txt").write_text("# nothing\n")
    (tree / "binary.txt").write_bytes(b"\xff\xfe")
    (tree / "zeros.txt").write_bytes(b"a\0b")
    with pytest.raises(InputError) as refused:
        names(*inputs)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_link_to_an_input_is_the_same_file(tree):
    os.symlink("x.h5", tree / "a/link.h5")
    with pytest.raises(InputError, match="is named twice"):
        names("a")


def test_a_result_never_replaces_an_input(tree):
    with pytest.raises(InputError, match="would replace an input"):
        study_files([Path("a")], Path("a"))
