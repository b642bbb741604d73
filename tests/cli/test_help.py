"""The help: options by what they are about, and examples that the commands take."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import typer

from sbim_deploy.cli.app import app, main
from sbim_deploy.cli.help import EXAMPLES, SECTIONS, WITH_SECTIONS

ROOT = Path(__file__).parents[2]
COMMANDS = typer.main.get_command(app).commands
OPTIONS = {name: {param.name for param in each.params} for name, each in COMMANDS.items()}


def test_every_command_has_examples_and_no_other():
    assert EXAMPLES.keys() == COMMANDS.keys()
    assert all(EXAMPLES.values())


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_is_a_line_that_its_command_takes(line):
    program, name, *arguments = shlex.split(line.partition(" <")[0].partition(" >")[0])
    assert program == "sbim-deploy"
    assert line in EXAMPLES[name]
    assert len(line) <= 98
    COMMANDS[name].make_context(name, arguments)


def test_the_files_of_the_repository_that_an_example_names_are_there():
    named = re.findall(r"\S+\.yaml", " ".join(line for lines in EXAMPLES.values() for line in lines))
    kept = [name for name in named if "/" in name]
    assert kept
    assert all((ROOT / name).is_file() for name in kept), kept


def test_an_option_is_in_one_section_and_there():
    names = [name for section in SECTIONS.values() for name in section]
    assert len(names) == len(set(names))
    assert set(names) <= set().union(*(OPTIONS[command] for command in WITH_SECTIONS))


def test_recon_s_options_are_all_in_sections(cli):
    sections = cli("recon", "--help").out.split("\nOptions:\n")
    assert sections[0].index("\nInput:") < sections[0].index("\nSampler:") < sections[0].index("\nStudy:")
    options, examples = sections[1].split("\nExamples:\n")
    assert options.split() == ["-h,", "--help", "Show", "this", "message", "and", "exit."]
    assert EXAMPLES["recon"][0] in examples


def test_a_command_of_few_options_has_no_sections(cli):
    text = cli("info", "--help").out
    assert "\nOptions:\n" in text
    assert "\nInput:\n" not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("recon", "k.h5"),
            "missing option '-o' / '--output' (sbim-deploy recon --help tells what there is)",
        ),
        (("recon", "k.h5", "--presett", "fast"), "no such option: --presett"),
        (("recon", "k.h5", "-o", "o.h5", "--batch", "two"), "invalid value for '--batch'"),
        (("recno",), "no such command 'recno'. Did you mean 'recon'? (sbim-deploy --help tells"),
        (("info",), "missing argument"),
        (("simulate", "-o"), "option '-o' requires an argument"),
    ],
)
def test_a_command_that_is_typed_wrongly_is_one_line_as_other_errors(cli, arguments, said):
    done = cli(*arguments)
    assert done.code == 2
    assert said in done.error_line
    assert done.err == f"{done.error_line}\n"


def test_a_program_that_has_done_its_work_ends_with_0(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sbim-deploy", "plan", "--steps", "2"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0


def test_no_command_is_the_help(cli):
    done = cli()
    assert done.code == 2
    assert "Commands:" in done.out + done.err
    assert "error" not in done.err


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_end_well(cli, option):
    assert cli(option).code == 0


def test_the_shell_s_completion_can_be_installed(cli):
    assert "--install-completion" in cli("--help").out
