"""``sbim-deploy serve``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.options import needs
from sbim_deploy.cli.output import describe_engine, note, print_json, warn

MIB, GIB = 1024**2, 1024**3


def serve(
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 is every network of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes one that is free.")] = 9002,
    model: options.Model = Path("demo"),
    backend: options.Backend = "auto",
    precision: options.Precision = None,
    device: options.Device = None,
    threads: Annotated[int | None, typer.Option(help="Engine threads; default one for each core.")] = None,
    max_sessions: Annotated[int, typer.Option(help="Sessions at once; more are refused.")] = 16,
    idle_timeout: Annotated[float, typer.Option(help="Seconds that a client may be silent.")] = 300,
    max_message: Annotated[float, typer.Option(help="The longest message, in MiB.")] = 64,
    max_memory: Annotated[float, typer.Option(help="Raw data of all sessions together, in GiB.")] = 4,
    deadline: Annotated[
        float,
        typer.Option(help="Seconds from a slice's last readout after which a simpler image is sent."),
    ] = 60,
    fallback: Annotated[
        str,
        typer.Option(
            help="What makes an image where the sampler fails: l1-wavelet, cg-sense or zero-filled."
        ),
    ] = "l1-wavelet",
    orientation: Annotated[
        str,
        typer.Option(
            help="Of raw data: auto (by systemVendor), plain, or turned (conjugated, as Siemens' are)."
        ),
    ] = "auto",
    identity: Annotated[
        str,
        typer.Option(
            help="Whether images name the patient and the study of the scan: anonymous, or keep. A client "
            "can ask for anonymous ones, never for more."
        ),
    ] = "anonymous",
    keep_grid: options.KeepGrid = False,
    gadgetron: Annotated[
        bool,
        typer.Option("--gadgetron", help="Clients are Gadgetrons: any XML configures, errors are id 8."),
    ] = False,
    save_raw: Annotated[
        Path | None, typer.Option(help="A folder to keep raw data in; without it nothing is kept.")
    ] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines.")] = False,
    metrics_port: Annotated[
        int | None, typer.Option(help="A port for /metrics, /health and /ready; 0 takes one that is free.")
    ] = None,
    openrecon_label: Annotated[
        bool, typer.Option("--openrecon-label", help="Print OpenRecon's label, and its base64, and end.")
    ] = False,
) -> None:
    """Reconstruct what a scanner streams (MRD), slice by slice, until SIGTERM or Ctrl-C.

    There is no authentication and no encryption: listen on this machine alone, behind TLS with client
    certificates (docs/serving.md), or on a network that is the scanner's own. Research use only.
    """
    with needs("serve"):
        from sbim_deploy.io.documents import find_named
        from sbim_deploy.mrd.identity import IdentityMode
        from sbim_deploy.mrd.orientation import Orientation
        from sbim_deploy.recon.classical import Classical
        from sbim_deploy.serving.log import set_up_log
        from sbim_deploy.serving.parameters import LABEL_KEY, encode_label
        from sbim_deploy.serving.parameters import openrecon_label as make_label
        from sbim_deploy.serving.server import Server
        from sbim_deploy.serving.settings import ServeSettings, is_loopback

    settings = ServeSettings(
        host=host,
        port=port,
        model=model,
        backend=options.backend_at(backend, None, device),
        threads=threads,
        precision=precision,
        max_sessions=max_sessions,
        idle_timeout_s=idle_timeout,
        max_message_bytes=int(max_message * MIB),
        max_memory_bytes=int(max_memory * GIB),
        deadline_s=deadline,
        fallback=find_named(Classical, fallback, "fallback"),
        orientation=find_named(Orientation, orientation, "orientation"),
        identity=find_named(IdentityMode, identity, "identity"),
        keep_grid=keep_grid,
        gadgetron=gadgetron,
        save_raw=save_raw,
        metrics_port=metrics_port,
    )
    if openrecon_label:
        label = make_label(port)
        print_json({"label": label, LABEL_KEY: encode_label(label)})
        return
    server = Server(settings)
    set_up_log(log_json)
    note(describe_engine(server.engine))
    if not is_loopback(host):
        warn(
            f"{host} is open to other machines, and there is no authentication and no encryption: "
            "whoever reaches this port can send raw data and use the engine; docs/serving.md shows TLS with "
            "client certificates before 127.0.0.1"
        )
    if server.metrics_port is not None:
        note(f"metrics on http://{host}:{server.metrics_port}/metrics")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.drain())
    typer.echo(f"listening on {host}:{server.port}")
    server.run()
