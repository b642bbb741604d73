"""``sbim-deploy replay``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.output import note, print_json, print_table, progress_bar, warn
from sbim_deploy.errors import InputError
from sbim_deploy.words import plural

if TYPE_CHECKING:
    from sbim_deploy.client.replay import ReceivedImage, ReplayReport
    from sbim_deploy.mrd.messages import ConfigFile, ConfigText


def replay(
    file: Annotated[Path, typer.Argument(help="An MRD (ISMRMRD) file of raw data: HDF5, or a kept stream.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The MRD file of images to write.")],
    server: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The server to send it to.")
    ] = "127.0.0.1:9002",
    configuration: Annotated[
        str | None, typer.Option(metavar="NAME", help='The configuration to ask for; "default" without one.')
    ] = None,
    configuration_file: Annotated[
        Path | None, typer.Option(help="Send this text as the configuration in place of a name.")
    ] = None,
    parameters: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Parameters to send after the header, as a JSON object."),
    ] = None,
    pace: Annotated[
        str,
        typer.Option(
            metavar="MS|stamps",
            help="Milliseconds between readouts, or stamps: by the time stamps of the file, 2.5 ms each.",
        ),
    ] = "0",
    timeout: Annotated[
        float, typer.Option(help="Seconds that the server has for each image, and for a message.")
    ] = 60.0,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Send raw data to an MRD server as a scanner does, and keep the images that it returns.

    Prints when each image came: its latency counts from the last readout of its slice.
    """
    from dataclasses import asdict

    from sbim_deploy.client.replay import ReplaySettings, parse_pace, replay_file
    from sbim_deploy.mrd.recording import open_scan

    host, port = _address(server)
    settings = ReplaySettings(
        host,
        port,
        _configuration(configuration, configuration_file),
        _checked(parameters),
        parse_pace(pace),
        timeout,
    )
    with open_scan(file) as scan:
        n_readouts, remarks = scan.n_readouts, scan.remarks
    for remark in remarks:
        warn(f"{file}: {remark}")
    note(f"{file}: {plural(n_readouts, 'readout')} to {server}")
    with progress_bar("sending", n_readouts) as move_to:
        report = replay_file(file, output, settings, move_to, force=force)
    for line in report.notes:
        note(f"{server}: {line}")
    if json:
        print_json(asdict(report))
        return
    _print_images(report)
    note(
        f"{output}: {plural(len(report.images), 'image')}; {plural(report.n_readouts, 'readout')} "
        f"sent in {report.sent_s:.2f} s, the session closed after {report.closed_s:.2f} s"
    )


def _address(server: str) -> tuple[str, int]:
    host, _, port = server.rpartition(":")
    if not (host and port.isdecimal()):
        raise InputError(f"--server is {server!r}: expected HOST:PORT, such as 127.0.0.1:9002")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _configuration(name: str | None, file: Path | None) -> ConfigFile | ConfigText:
    from sbim_deploy.mrd.messages import ConfigFile, ConfigText

    if file is None:
        return ConfigFile("default" if name is None else name)
    if name is not None:
        raise InputError("--configuration and --configuration-file are both given, expected one of them")
    return ConfigText(_read_text(file))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"{path}: cannot be read ({reason}); name a text file") from error


def _checked(parameters: str | None) -> str | None:
    from sbim_deploy.io.documents import parse_object

    if parameters is not None:
        parse_object(parameters, "--parameters")
    return parameters


def _print_images(report: ReplayReport) -> None:
    columns = (
        "series",
        "image",
        "slice",
        "contrast",
        "repetition",
        "shape",
        "latency ms",
        "at s",
    )
    print_table(columns, [_row(image) for image in report.images])


def _row(image: ReceivedImage) -> tuple[str, ...]:
    numbers = (image.series, image.index, image.slice, image.contrast, image.repetition)
    latency = "-" if image.latency_s is None else f"{image.latency_s * 1000:.0f}"
    shape = " x ".join(map(str, image.shape))
    return (*map(str, numbers), shape, latency, f"{image.received_s:.2f}")
