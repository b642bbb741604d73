"""What the documentation tells people to run, runs, and what it names is there."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

import sbim_deploy
from sbim_deploy.cli.app import app
from sbim_deploy.samplers.choice import SAMPLERS

ROOT = Path(__file__).parents[1]
PACKAGE = Path(sbim_deploy.__file__).parent
PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    ROOT / "packaging" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.slow
def test_the_quick_start_runs_from_top_to_bottom(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "quickstart.md").read_text(), re.S)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(commands) >= 8
    for program, *arguments in commands:
        assert program == "sbim-deploy"
        done = cli(*arguments)
        assert done.code == 0, f"{arguments}: {done.err}"
    assert (tmp_path / "out.png").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_extras_that_a_page_installs_are_there_and_from_the_clone(page):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for place, named in re.findall(r'pip install (?:-e )?"?([^\s\["]*)\[([a-z0-9,]+)\]', page.read_text()):
        assert place == ".", f"no index has the package yet: {place}[{named}]"
        assert set(named.split(",")) <= set(extras), named


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_files_of_the_repository_that_a_page_names_exist(page):
    for name in re.findall(r"[`\s(]([a-z_]+/[\w./-]+\.(?:py|ya?ml|npz))\b", page.read_text()):
        assert any((folder / name).exists() for folder in (ROOT, PACKAGE, page.parent)), name


def test_the_tests_that_prove_the_gpu_path_exist():
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    tests = {name for source in sources for name in re.findall(r"^def (test_\w+)\(", source, re.M)}
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "engines.md").read_text()))
    assert len(named) > 40
    assert named <= tests


def test_the_table_of_rooms_has_every_file_but_those_of_the_commands():
    page = (ROOT / "docs" / "architecture.md").read_text()
    files = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("*/*.py")}
    wanted = {name for name in files if not name.startswith("cli/") and not name.endswith("__init__.py")}
    assert wanted <= set(re.findall(r"`(\w+/\w+\.py)`", page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_functions_that_a_page_names_exist(page):
    rooms = "|".join(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    for room, module, name in re.findall(
        rf"`(?:sbim_deploy\.)?({rooms})\.(?!json|html|yaml|csv|h5)(\w+)(?:\.(\w+))?(?:\(.*?\))?`",
        page.read_text(),
    ):
        found = importlib.import_module(f"sbim_deploy.{room}.{module}")
        assert not name or hasattr(found, name), f"{room}.{module}.{name}"


N_SLIDES = 78


def rows_of_the_thesis() -> list[list[str]]:
    lines = (ROOT / "docs" / "thesis.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:3].strip("| ")]
    return [cells for cells in rows if len(cells) == 4 and cells[0][0].isdecimal()]


def defined_in(path: Path) -> set[str]:
    """Return the functions, classes and constants of a module, without importing it."""
    found = re.findall(r"^ *(?:def|class) (\w+)|^(\w+) *[:=]", path.read_text(), re.M)
    return {name for names in found for name in names}


def test_every_slide_of_the_thesis_has_a_row_and_only_distillation_is_not_done():
    told = set()
    for pages, _, where, _ in rows_of_the_thesis():
        for part in pages.split(", "):
            first, _, last = part.partition("-")
            told |= set(range(int(first), int(last or first) + 1))
        assert "not done" not in where or pages == "77"
    assert told == set(range(1, N_SLIDES + 1))
    not_done = [cells[1] for cells in rows_of_the_thesis() if "not done" in cells[2]]
    assert not_done == ["knowledge distillation"]
    titles = [cells[1] for cells in rows_of_the_thesis() if not cells[2]]
    assert titles == ["titles", "the end"]


@pytest.mark.parametrize("cells", rows_of_the_thesis(), ids=lambda cells: cells[0])
def test_what_the_table_of_the_thesis_names_is_there(cells):
    commands = typer.main.get_command(app).commands
    for name in re.findall("`(.*?)`", cells[2]):
        if name.startswith("sbim-deploy "):
            _, command, *options = name.split()
            known = {option for parameter in commands[command].params for option in parameter.opts}
            assert {option for option in options if option.startswith("--")} <= known, name
            assert {option for option in options if not option.startswith("--")} <= set(SAMPLERS), name
        elif "/" in name:
            assert (ROOT / name).is_file(), name
        else:
            room, module, defined = name.split(".")
            assert defined in defined_in(PACKAGE / room / f"{module}.py"), name
    for name in re.findall("`(.*?)`", cells[3]):
        path, _, test = name.partition("::")
        assert test.startswith("test_"), name
        assert test in defined_in(ROOT / path), name


def test_the_commands_of_the_readme_are_the_programs():
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "README.md").read_text(), re.M)
    documented = {name for cell in table for name in re.findall(r"`([a-z]+)`", cell)}
    assert documented == {command.callback.__name__ for command in app.registered_commands}


TYPED = [*PAGES, ROOT / "priors" / "brain-ngf16" / "README.md", ROOT / "recipes" / "brain-ngf16.yaml"]
COMMANDS = typer.main.get_command(app).commands


def lines_of(pattern: str) -> list[tuple[str, str]]:
    """Return what pages tell people to type, by page; a line that goes on in the next one is whole."""
    found = [
        (page.name, line.split("  #")[0])
        for page in TYPED
        for line in re.findall(pattern, page.read_text().replace("\\\n", " "), re.M)
    ]
    return [(page, line) for page, line in found if line.split()[1] in COMMANDS and "[" not in line]


@pytest.mark.parametrize(
    ("page", "line"), lines_of(r"^(?:    |#     )?(?:[A-Z_]+=\S+ )*(sbim-deploy [a-z]+ .*)$")
)
def test_a_line_that_a_page_tells_people_to_type_is_one_that_its_command_takes(page, line):
    _, name, *arguments = shlex.split(re.split(r" [<>|] ?", line)[0])
    COMMANDS[name].make_context(name, arguments)


@pytest.mark.parametrize(("page", "line"), lines_of(r"`(sbim-deploy [a-z]+ [^`]+)`"))
def test_an_option_that_a_page_names_is_one_of_its_command(page, line):
    _, name, *arguments = line.split()
    parameters = COMMANDS[name].params
    known = {option for each in parameters for option in (*each.opts, *each.secondary_opts)}
    assert {each.partition("=")[0] for each in arguments if re.match("--?[a-z]", each)} <= known


def test_the_python_of_the_readme_reconstructs(tmp_path):
    from sbim_deploy.mri.masks import line_mask
    from sbim_deploy.runs.simulate import SimulateSettings, simulate_slice

    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    scan = simulate_slice(SimulateSettings(1, 4, 64, 2.0), line_mask(64, 2.0), 0)
    names = {"kspace": scan.kspace}
    exec(code, names)
    assert names["image"].shape == (64, 64)
