"""Serves metrics and health on a port of their own, to Prometheus and to what restarts a hung server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

REQUEST_TIMEOUT_S = 5.0
SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)


class Metrics:
    """What the server counts. Names and labels are fixed; none comes from a client."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions = Counter(
            "sbim_sessions", "Sessions, by how they ended.", ["outcome"], registry=self.registry
        )
        self.slices = Counter(
            "sbim_slices", "Images sent, by how they were made.", ["method"], registry=self.registry
        )
        self.fallbacks = Counter(
            "sbim_fallbacks", "Images sent in place of the model's.", ["reason"], registry=self.registry
        )
        self.clipped = Counter(
            "sbim_clipped_pixels", "Pixels brighter than the series' scale holds.", registry=self.registry
        )
        self.latency = Histogram(
            "sbim_slice_latency_seconds",
            "From a slice's last readout to its image sent.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queue_wait = Histogram(
            "sbim_queue_wait_seconds",
            "From a slice's last readout to the start of its reconstruction.",
            buckets=SECONDS,
            registry=self.registry,
        )

    def count_slice(
        self, method: str, fallback_reason: str | None, latency: float, wait: float, n_clipped: int
    ) -> None:
        """Count an image that was sent; times in seconds."""
        self.slices.labels(method).inc()
        if fallback_reason is not None:
            self.fallbacks.labels(fallback_reason).inc()
        self.latency.observe(latency)
        self.queue_wait.observe(wait)
        self.clipped.inc(n_clipped)

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Report a value that is asked for whenever the metrics are read."""
        Gauge(name, description, registry=self.registry).set_function(value)


class Monitor:
    """The HTTP server of ``/metrics``, ``/health`` and ``/ready``.

    ``/health`` is 503 where the process should be started anew, ``/ready`` where no session is taken now.
    """

    def __init__(
        self, host: str, port: int, metrics: Metrics, healthy: Callable[[], bool], ready: Callable[[], bool]
    ):
        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_TIMEOUT_S

            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(metrics.registry))
                elif self.path in ("/health", "/ready"):
                    good = healthy() if self.path == "/health" else ready() and healthy()
                    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
                    body = json.dumps({"status": "ok" if good else "unavailable"}).encode()
                    self._answer(status, "application/json", body)
                else:
                    self.send_error(HTTPStatus.NOT_FOUND)

            def log_message(self, *_arguments: Any) -> None:
                """Log nothing for a request."""

            def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        class Http(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True

            def handle_error(self, *_arguments: Any) -> None:
                """Ignore it: a peer may go away at any time."""

        self._http = Http((host, port), Handler)
        self.port: int = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, name="monitor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
