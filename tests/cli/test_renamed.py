"""Former names of options are taken for one version, and the new one is said."""

import pytest
import typer

from sbim_deploy import __version__
from sbim_deploy.cli.app import app
from sbim_deploy.cli.renamed import FIRST_WITHOUT, RENAMED, with_new_names
from sbim_deploy.errors import InputError

COMMANDS = typer.main.get_command(app).commands


def test_former_names_are_gone_with_the_version_that_was_said():
    assert tuple(map(int, __version__.split(".")[:2])) < tuple(map(int, FIRST_WITHOUT.split(".")))


@pytest.mark.parametrize("command", RENAMED)
def test_a_former_name_is_no_option_any_more_and_the_new_one_is(command):
    taken = {option for param in COMMANDS[command].params for option in param.opts}
    for renamed in RENAMED[command]:
        assert renamed.name in taken
        assert not taken & set(renamed.former)


@pytest.mark.parametrize(
    ("command", "former", "new"),
    [
        ("replay", ["--port", "9010"], ["--server", "127.0.0.1:9010"]),
        ("replay", ["--host=h", "f.h5", "--port=1"], ["--server", "h:1", "f.h5"]),
        ("replay", ["--config", "fast"], ["--configuration", "fast"]),
        ("recon", ["--url", "h:8001", "k.h5"], ["--server", "h:8001", "k.h5"]),
        ("simulate", ["--acceleration", "2"], ["--undersample", "2"]),
        ("simulate", ["--pattern", "random", "-q"], ["--undersample", "random:4", "-q"]),
        ("train", ["--start", "c.pth"], ["--checkpoint", "c.pth"]),
    ],
)
def test_the_value_is_that_of_the_new_option(capsys, command, former, new):
    assert with_new_names(command, former) == new
    (line,) = capsys.readouterr().err.splitlines()
    assert f" of {command} is {new[0]} {new[1]} now" in line


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("recon", ["--start", "l1-wavelet"]),
        ("serve", ["--host", "0.0.0.0", "--port", "1"]),
        ("recon", ["--", "--url"]),
        ("replay", ["f.h5", "--port"]),
    ],
)
def test_what_was_not_renamed_stays_and_nothing_is_said(capsys, command, arguments):
    assert with_new_names(command, arguments) == arguments
    assert capsys.readouterr().err == ""


def test_an_option_by_both_of_its_names_is_refused():
    with pytest.raises(InputError, match="--url and --server are both given: --url is its former name"):
        with_new_names("recon", ["--server=a:1", "--url", "b:2"])


def test_a_scan_that_is_simulated_by_former_names_is_the_same(cli, tmp_path):
    small = ("--slices", 1, "--size", 64, "--coils", 4)
    former = cli("simulate", "-o", tmp_path / "a.h5", *small, "--pattern", "random", "--acceleration", 2)
    assert former.code == 0
    assert "is --undersample random:2 now" in former.err
    assert cli("simulate", "-o", tmp_path / "b.h5", *small, "--undersample", "random:2").code == 0
    told = [
        cli("info", tmp_path / name, "--json").out.replace(name, "").replace(str(tmp_path), "")
        for name in ("a.h5", "b.h5")
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("command", "size", "said"),
    [
        (("sample", "demo", "-o", "s.h5"), "64x32", "expected as many columns as rows here, such as 64"),
        (("simulate", "-o", "k.h5"), "64x32", "expected as many columns as rows here"),
        (("simulate", "-o", "k.h5"), "big", "expected rows x columns, such as 384x320, or a number for both"),
    ],
)
def test_a_size_is_said_alike_everywhere(cli, tmp_path, monkeypatch, command, size, said):
    monkeypatch.chdir(tmp_path)
    done = cli(*command, "--size", size)
    assert done.code == 2
    assert said in done.error_line
    assert list(tmp_path.iterdir()) == []


def test_a_number_is_rows_and_columns(cli, tmp_path):
    made = cli("simulate", "-o", tmp_path / "k.h5", "--slices", 1, "--size", "64x64", "--coils", 2)
    assert made.code == 0
    assert "64 x 64" in made.err
