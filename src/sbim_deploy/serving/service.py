"""What all sessions share."""

from __future__ import annotations

from dataclasses import dataclass

from sbim_deploy.samplers.choice import Prior
from sbim_deploy.serving.budget import MemoryBudget
from sbim_deploy.serving.monitor import Metrics
from sbim_deploy.serving.settings import ServeSettings
from sbim_deploy.serving.worker import Worker


@dataclass(frozen=True)
class Service:
    """The engine, the memory and the counters of a server; ``prior`` is what its model allows a sampler."""

    settings: ServeSettings
    prior: Prior
    worker: Worker
    budget: MemoryBudget
    metrics: Metrics
