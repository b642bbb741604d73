"""The server accepts connections, gives each session a thread, and lets sessions finish at its end."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from sbim_deploy.errors import InputError
from sbim_deploy.models.folder import load_model, sampling_prior
from sbim_deploy.mrd.messages import Close, Error, ProtocolError, Text
from sbim_deploy.mrd.socket import SocketStream
from sbim_deploy.samplers.presets import DEFAULT_PRESET
from sbim_deploy.serving.log import log, warn
from sbim_deploy.serving.memory import HeapTrimmer, MemoryBudget
from sbim_deploy.serving.monitor import Metrics, Monitor
from sbim_deploy.serving.parameters import make_request
from sbim_deploy.serving.raw_file import check_raw_folder, warn_of_unfinished
from sbim_deploy.serving.session import LINGER_S, OPENING_S, Session
from sbim_deploy.serving.settings import ServeSettings, Service, is_loopback
from sbim_deploy.serving.worker import Worker

DRAIN_S = 60.0
ACCEPT_S = 0.25
MAX_REFUSALS = 8
# A scanner opens a session for a scan. Beyond this rate connections wait in the backlog, so that a flood of
# them leaves the processor to the sessions that are there.
BURST, SESSIONS_PER_S = 32, 100.0
BACKLOG = 128
HANG_FACTOR = 3.0  # an engine hangs where a slice takes this many times the deadline


class Pace:
    """Lets a burst of events through at once, and more of them only as fast as ``per_s``."""

    def __init__(
        self,
        burst: int,
        per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ):
        self._times: deque[float] = deque(maxlen=burst)
        self._window_s, self._clock, self._sleep = burst / per_s, clock, sleep

    def wait(self) -> None:
        """Sleep until another event may happen."""
        if len(self._times) == self._times.maxlen:
            early = self._times[0] + self._window_s - self._clock()
            if early > 0:
                self._sleep(early)

    def count(self) -> None:
        """Count an event that happens now."""
        self._times.append(self._clock())


class Server:
    """A server that listens from the start; :meth:`run` serves until :meth:`drain` is called.

    Raises:
        SbimDeployError: the model or its engine cannot be opened, or a port cannot be listened on.
    """

    def __init__(self, settings: ServeSettings):
        if settings.save_raw is not None:
            check_raw_folder(settings.save_raw)
        self._settings = settings
        model = load_model(settings.model)
        budget = MemoryBudget(settings.max_memory_bytes)
        worker = Worker(
            model, settings.backend, settings.threads, budget, settings.fallback, settings.precision
        )
        self._service = Service(
            settings,
            sampling_prior(model.manifest),
            worker,
            budget,
            Metrics(),
            model.manifest.ngf,
        )
        self._sessions: dict[Session, threading.Thread] = {}
        self._refusals = threading.Semaphore(MAX_REFUSALS)
        self._draining = threading.Event()
        self._listener = listen(settings.host, settings.port)
        self.port: int = self._listener.getsockname()[1]
        try:
            self.engine = worker.start(make_request(DEFAULT_PRESET))
            self._monitor = self._open_monitor()
        except BaseException:
            self._listener.close()
            raise

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics, or None."""
        return None if self._monitor is None else self._monitor.port

    @property
    def buffered_bytes(self) -> int:
        """The bytes that the sessions' data take now."""
        return self._service.budget.taken

    @property
    def open_sessions(self) -> int:
        """The number of open sessions."""
        return len(self._sessions)

    @property
    def queued_slices(self) -> int:
        """The number of slices that wait for the engine."""
        return self._service.worker.queued

    @property
    def healthy(self) -> bool:
        """Whether the GPU has not failed, and the engine is not held by one slice for three deadlines."""
        worker = self._service.worker
        return worker.lost is None and worker.busy_for < HANG_FACTOR * self._settings.deadline_s

    def run(self) -> None:
        """Accept sessions until :meth:`drain`, then let those that are there finish, for a minute at most."""
        log("listening", host=self._settings.host, port=self.port, backend=self.engine["backend"])
        if not is_loopback(self._settings.host):
            warn("open-to-the-network", host=self._settings.host, authentication=False, encryption=False)
        if self._settings.save_raw is not None:
            warn_of_unfinished(self._settings.save_raw)
        number, heap, pace = 0, HeapTrimmer(), Pace(BURST, SESSIONS_PER_S)
        while not self._draining.is_set():
            heap.trim_when_due()
            pace.wait()
            try:
                connection, address = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                # Most likely there are no file descriptors left. Some come back when sessions end.
                warn("accept-failed", reason=error.strerror)
                time.sleep(ACCEPT_S)
                continue
            number += 1
            pace.count()
            try:
                self._admit(connection, str(address[0]), number)
            except (OSError, RuntimeError) as error:
                # The peer has gone already, or no thread could be started. The next one may fare better.
                connection.close()
                warn("session-not-begun", session=number, error=type(error).__name__)
        self._finish()

    def drain(self) -> None:
        """Take no more sessions, and let :meth:`run` return; safe in a signal handler and in any thread."""
        self._draining.set()

    def _admit(self, connection: socket.socket, peer: str, number: int) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if not self._has_room():
            self._service.metrics.sessions.labels("full").inc()
            warn("session-refused", session=number, peer=peer, open=len(self._sessions))
            self._turn_away(SocketStream(connection, OPENING_S, OPENING_S))
            return
        session = Session(connection, self._service, number)
        thread = threading.Thread(
            target=self._serve, args=(session, peer), name=f"session-{number}", daemon=True
        )
        self._sessions[session] = thread
        thread.start()

    def _has_room(self) -> bool:
        """Tell whether another session may begin; among too many the oldest silent one gives way."""
        sessions = list(self._sessions)
        staying = [session for session in sessions if not session.gives_way]
        if len(staying) < self._settings.max_sessions:
            return len(sessions) < self._settings.max_sessions + MAX_REFUSALS
        silent = [session for session in staying if session.is_silent]
        if not silent or len(sessions) >= self._settings.max_sessions + MAX_REFUSALS:
            return False
        oldest = min(silent, key=lambda session: (session.has_header, session.number))
        warn("session-gives-way", session=oldest.number)
        oldest.give_way()
        return True

    def _serve(self, session: Session, peer: str) -> None:
        began = time.monotonic()
        log("session-begin", session=session.number, peer=peer)
        try:
            session.run()
        finally:
            self._service.metrics.sessions.labels(session.outcome).inc()
            seconds = round(time.monotonic() - began, 3)
            fields = session.sender.times.summary()
            if session.raw is not None:
                fields["raw_data"] = session.raw.outcome
            log("session-end", session=session.number, outcome=session.outcome, seconds=seconds, **fields)
            del self._sessions[session]

    def _turn_away(self, stream: SocketStream) -> None:
        """Say that the server is full, in a thread of its own; with too many at once, close without words."""
        if not self._refusals.acquire(blocking=False):
            stream.close()
            return
        n_sessions = self._settings.max_sessions
        text = f"sbim-deploy: error: {n_sessions} sessions are open, as many as may be: try later"

        def refuse() -> None:
            with suppress(ProtocolError):
                stream.send(Error(text) if self._settings.gadgetron else Text(text))
                stream.send(Close())
            stream.close(LINGER_S)
            self._refusals.release()

        threading.Thread(target=refuse, name="refusal", daemon=True).start()

    def _finish(self) -> None:
        self._listener.close()
        log("draining", sessions=len(self._sessions))
        until = time.monotonic() + DRAIN_S
        for thread in list(self._sessions.values()):
            thread.join(max(0.0, until - time.monotonic()))
        for session in list(self._sessions):
            session.sender.give_up()
        self._service.worker.close(LINGER_S)
        if self._monitor is not None:
            self._monitor.close()
        log("stopped", sessions_cut=len(self._sessions))

    def _open_monitor(self) -> Monitor | None:
        settings, service = self._settings, self._service
        metrics, worker = service.metrics, service.worker
        metrics.watch("sbim_open_sessions", "Sessions that are open.", lambda: self.open_sessions)
        metrics.watch("sbim_queued_slices", "Slices that wait for the engine.", lambda: self.queued_slices)
        metrics.watch("sbim_buffered_bytes", "Bytes of the sessions' data.", lambda: self.buffered_bytes)
        metrics.watch("sbim_engine_busy_seconds", "Of the slice longest at work.", lambda: worker.busy_for)
        if settings.metrics_port is None:
            return None
        try:
            return Monitor(
                settings.host,
                settings.metrics_port,
                metrics,
                lambda: self.healthy,
                lambda: not self._draining.is_set() and len(self._sessions) < settings.max_sessions,
            )
        except OSError as error:
            raise _cannot_listen(settings.host, settings.metrics_port, error) from error


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 is one that is free.

    Raises:
        InputError: the address is taken, or none of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, error) from error
    listener.settimeout(ACCEPT_S)
    return listener


def _cannot_listen(host: str, port: int, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"cannot listen on {host}:{port} ({reason}): choose another --host or port")
