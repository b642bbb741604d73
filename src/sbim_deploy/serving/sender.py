"""The sending half of a session. Images go out in the order of their slices, none after its deadline."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sbim_deploy.errors import SbimDeployError
from sbim_deploy.kspace.slice_buffer import AssembledSlice
from sbim_deploy.mrd.messages import Close, Error, Message, ProtocolError, Text
from sbim_deploy.mrd.socket import SocketStream
from sbim_deploy.serving.images import ImageForm, SessionImages, resolve
from sbim_deploy.serving.log import SliceTimes, place_of, warn
from sbim_deploy.serving.settings import Service
from sbim_deploy.serving.worker import SliceJob

MAX_UNSENT = 64


@dataclass(frozen=True, eq=False)
class Pending:
    """A slice whose image has not been sent.

    ``bright`` is what the brightest parts of its series have, in units of k-space, where that is known.
    """

    data: AssembledSlice
    job: SliceJob
    bright: float | None = None


class Sender:
    """A thread that sends what :meth:`put` gives it until :meth:`finish`.

    Args:
        stream: the connection to the client.
        service: what the sessions share.
        number: the session's number, for the log.
        on_sent: takes every slice that is done with, whether its image was sent or given up.

    Attributes:
        form: how the images leave; the first image settles it.
    """

    def __init__(
        self, stream: SocketStream, service: Service, number: int, on_sent: Callable[[AssembledSlice], None]
    ):
        self.times = SliceTimes()
        self.broken = threading.Event()
        self.form = ImageForm()
        self._stream, self._service, self._number, self._on_sent = stream, service, number, on_sent
        self._outbox: queue.Queue[Pending | Message | None] = queue.Queue(MAX_UNSENT)
        self._unsent, self._counting = 0, threading.Condition()
        self._images: SessionImages | None = None
        self._thread = threading.Thread(target=self._run, name=f"sender-{number}", daemon=True)
        self._thread.start()

    def put(self, item: Pending | Message) -> None:
        """Send something after what came before. This waits while 64 things are unsent."""
        with self._counting:
            self._unsent += 1
        self._outbox.put(item)

    def wait_for_fewer(self, n_items: int) -> None:
        """Wait until fewer things than these are unsent."""
        with self._counting:
            self._counting.wait_for(lambda: self._unsent < n_items)

    @property
    def is_busy(self) -> bool:
        """Whether something is unsent."""
        return self._unsent > 0

    def put_error(self, error: Exception) -> None:
        """Tell the client, as its kind of peer understands it, what went wrong."""
        text = f"sbim-deploy: error: {error}"
        self.put(Error(text) if self._service.settings.gadgetron else Text(text))

    def finish(self) -> None:
        """Send CLOSE and wait until everything is sent, or given up."""
        self.put(Close())
        self._outbox.put(None)
        self._thread.join()

    def give_up(self) -> None:
        """Send nothing any more, and break the connection, which wakes who reads from it."""
        self.broken.set()
        self._stream.close()

    def _run(self) -> None:
        while (item := self._outbox.get()) is not None:
            try:
                if not self.broken.is_set():
                    self._send(item)
            except ProtocolError:
                self.give_up()
            except Exception as error:
                # This is a bug, or numbers that MRD cannot hold. The client must not wait in vain.
                warn("crash", session=self._number, error=type(error).__name__, place=place_of(error))
                self._send_last_words(error)
            finally:
                with self._counting:
                    self._unsent -= 1
                    self._counting.notify_all()
                if isinstance(item, Pending):
                    self._service.worker.cancel(item.job)
                    self._on_sent(item.data)

    def _send(self, item: Pending | Message) -> None:
        if not isinstance(item, Pending):
            self._stream.send(item)
            return
        data, job = item.data, item.job
        if not job.wait():
            self._service.worker.cancel(job)
        if self.broken.is_set():
            return
        with self._service.whole_slices:
            outcome = resolve(job, data)
        job.problem = None
        if self._images is None:
            self._images = SessionImages(self.form)
        image, n_clipped = self._images.make_image(outcome, data, item.bright)
        self._stream.send(image)
        latency = time.monotonic() - job.completed_at
        wait = (job.started_at or time.monotonic()) - job.completed_at
        self.times.add(latency, wait, outcome.reason is not None)
        self._service.metrics.count_slice(outcome.method, outcome.reason, latency, wait, n_clipped)
        if outcome.reason is not None:
            # The engine's words are safe to log: all that it gets is finite arrays that this server made.
            warn(
                "fallback",
                session=self._number,
                sent=outcome.method,
                reason=outcome.reason,
                error=None if job.error is None else type(job.error).__name__,
                words=str(job.error) if outcome.reason in ("diverged", "engine") else None,
            )

    def _send_last_words(self, error: Exception) -> None:
        words = str(error) if isinstance(error, SbimDeployError) else "the server failed; its log says where"
        text = f"sbim-deploy: error: {words}"
        try:
            self._stream.send(Error(text) if self._service.settings.gadgetron else Text(text))
            self._stream.send(Close())
        except ProtocolError:
            pass
        self.give_up()
