"""Former names of options, which are taken for one version with a line on stderr that says the new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sbim_deploy.cli.output import note
from sbim_deploy.errors import InputError

FIRST_WITHOUT = "0.2"  # the version that takes the new names alone

Given = Mapping[str, str]


def _the_only(given: Given) -> str:
    (value,) = given.values()
    return value


@dataclass(frozen=True)
class Renamed:
    """One option in place of former ones; ``value`` makes its value of theirs, by those that were given."""

    former: tuple[str, ...]
    name: str
    value: Callable[[Given], str] = _the_only


def _address(given: Given) -> str:
    return f"{given.get('--host', '127.0.0.1')}:{given.get('--port', '9002')}"


def _lines(given: Given) -> str:
    acceleration = given.get("--acceleration", "4")
    return f"{given['--pattern']}:{acceleration}" if "--pattern" in given else acceleration


_SERVER = Renamed(("--url",), "--server")
RENAMED: Mapping[str, Sequence[Renamed]] = {
    "recon": (_SERVER,),
    "sample": (_SERVER,),
    "validate": (_SERVER,),
    "bench": (_SERVER,),
    "replay": (
        Renamed(("--host", "--port"), "--server", _address),
        Renamed(("--config",), "--configuration"),
        Renamed(("--config-file",), "--configuration-file"),
    ),
    "simulate": (Renamed(("--pattern", "--acceleration"), "--undersample", _lines),),
    "train": (Renamed(("--start",), "--checkpoint"),),
}


def with_new_names(command: str, arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments with new names in place of former ones, and say which those are.

    Raises:
        InputError: an option is given by its former and by its new name.
    """
    left = list(arguments)
    for option in RENAMED.get(command, ()):
        left, given = _part(left, option.former)
        if not given:
            continue
        former = " and ".join(given)
        if any(each.partition("=")[0] == option.name for each in left):
            raise InputError(f"{former} and {option.name} are both given: {former} is its former name")
        value = option.value(given)
        note(
            f"sbim-deploy: {former} of {command} is {option.name} {value} now: version {FIRST_WITHOUT} takes "
            "no other name",
            even_quiet=True,
        )
        left = [option.name, value, *left]
    return left


def _part(arguments: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the arguments without options of these names, and the values that those had."""
    left: list[str] = []
    given: dict[str, str] = {}
    waiting = iter(arguments)
    for each in waiting:
        name, equals, value = each.partition("=")
        if each == "--":
            return [*left, each, *waiting], given
        if name in names and equals:
            given[name] = value
        elif name in names and (following := next(waiting, None)) is not None:
            given[name] = following
        else:
            left.append(each)
    return left, given
