"""How a server runs, and what all its sessions share."""

from __future__ import annotations

import ipaddress
import math
import threading
from dataclasses import dataclass, field
from pathlib import Path

from sbim_deploy.errors import InputError
from sbim_deploy.models.folder import DEMO
from sbim_deploy.mrd.identity import IdentityMode
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.recon.classical import Classical
from sbim_deploy.samplers.choice import Prior
from sbim_deploy.serving.memory import MemoryBudget
from sbim_deploy.serving.monitor import Metrics
from sbim_deploy.serving.worker import Worker

GIB = 1024**3
MIB = 1024**2
DEFAULT_PORT = 9002


@dataclass(frozen=True)
class ServeSettings:
    """A server's settings; times are in seconds.

    ``port`` 0 is one that is free; ``metrics_port`` None serves no metrics. ``deadline_s`` counts from a
    slice's last readout; ``fallback`` makes the image where the sampler fails before. ``idle_timeout_s`` is
    how long a client may be silent. ``gadgetron`` takes any XML as a configuration, and sends errors as
    Gadgetron's message 8 in place of a text. ``identity`` says whether images name the patient and the study;
    ``keep_grid`` lays them out as k-space lies, not in the nearest standard view. ``save_raw`` is a folder
    for the sessions' raw data; None keeps none.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    model: str | Path = DEMO
    backend: str = "auto"
    precision: str | None = None
    threads: int | None = None
    max_sessions: int = 16
    idle_timeout_s: float = 300.0
    max_message_bytes: int = 64 * MIB
    max_memory_bytes: int = 4 * GIB
    deadline_s: float = 60.0
    fallback: Classical = Classical.L1_WAVELET
    orientation: Orientation = Orientation.AUTO
    identity: IdentityMode = IdentityMode.ANONYMOUS
    keep_grid: bool = False
    gadgetron: bool = False
    save_raw: Path | None = None
    metrics_port: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, port in (("port", self.port), ("metrics port", self.metrics_port)):
            if port is not None and not 0 <= port <= 65535:
                raise InputError(f"{name} is {port}: expected 0 to 65535")
        if self.metrics_port is not None and self.metrics_port == self.port != 0:
            raise InputError(f"metrics port is {self.port}, as the port is: expected another one")
        if self.max_sessions < 1:
            raise InputError(f"max sessions is {self.max_sessions}: expected at least 1")
        for name, seconds in (("idle time-out", self.idle_timeout_s), ("deadline", self.deadline_s)):
            if not (math.isfinite(seconds) and seconds > 0):
                raise InputError(f"{name} is {seconds:g} s: expected a finite number above 0")
        for name, size in (("message", self.max_message_bytes), ("memory", self.max_memory_bytes)):
            if size < MIB:
                raise InputError(f"max {name} is {size} bytes: expected at least 1 MiB")


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Service:
    """The engine, the memory and the counters of a server.

    ``prior`` is what its model allows a sampler, ``width`` the channels of the network's first stage. Who
    assembles or combines a whole slice holds ``whole_slices``, so that the work of one such is enough memory.
    """

    settings: ServeSettings
    prior: Prior
    worker: Worker
    budget: MemoryBudget
    metrics: Metrics
    width: int
    whole_slices: threading.Lock = field(default_factory=threading.Lock)
