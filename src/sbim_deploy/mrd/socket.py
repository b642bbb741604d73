"""Messages over a socket, with a time-out for silence and one for each message."""

from __future__ import annotations

import mmap
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.mrd.messages import (
    Message,
    PeerGoneError,
    PeerIdleError,
    PeerTimeoutError,
    ProtocolError,
)
from sbim_deploy.mrd.stream import Limits, read_message, write_message

_DRAIN_BYTES = 64 * 1024
_LARGE_BYTES = 1024**2


class SocketStream:
    """A connected socket as a stream of messages; one thread may read while others send.

    A peer has ``idle_timeout`` seconds to begin a message, and ``message_timeout`` from its first byte to its
    last, in each direction: sending a byte now and then does not keep a connection open.
    The stream owns the socket and closes it.
    """

    def __init__(self, sock: socket.socket, idle_timeout: float, message_timeout: float) -> None:
        if not (idle_timeout > 0 and message_timeout > 0):
            raise InputError(f"time-outs are {idle_timeout} and {message_timeout} s, expected more than 0")
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A time-out belongs to a socket object: reading and sending at the same time take one each.
        self._incoming, self._outgoing = sock, sock.dup()
        self._idle_timeout, self._message_timeout = idle_timeout, message_timeout
        self._read_deadline = 0.0
        self._sending = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def set_timeouts(self, idle_timeout: float, message_timeout: float) -> None:
        """Give the peer other times from the next message on."""
        self._idle_timeout, self._message_timeout = idle_timeout, message_timeout

    def stop_receiving(self) -> None:
        """Let whoever reads, from any thread, meet PeerGoneError; what is sent still arrives."""
        with suppress(OSError):
            self._incoming.shutdown(socket.SHUT_RD)

    def receive(self, limits: Limits) -> Message:
        """Read one message.

        Raises:
            PeerTimeoutError: the message did not come in time.
            PeerGoneError, ProtocolError: see :func:`sbim_deploy.mrd.stream.read_message`.
        """
        return read_message(self, limits)

    def send(self, message: Message) -> None:
        """Send one message, whole; threads wait for each other.

        Raises:
            PeerTimeoutError: the peer did not take it within the message time-out; close the stream.
            PeerGoneError: the connection is broken.
        """
        buffers = write_message(message)
        with self._sending:
            deadline = time.monotonic() + self._message_timeout
            for buffer in buffers:
                try:
                    self._outgoing.settimeout(_left(deadline))
                    self._outgoing.sendall(buffer)  # the time-out is that of all its bytes
                except TimeoutError:
                    raise PeerTimeoutError(
                        f"the peer did not take a message within {self._message_timeout:g} s"
                    ) from None
                except OSError as error:
                    raise _broken(error) from None

    def read_start(self, n_bytes: int) -> memoryview:
        """Return the first bytes of a message; its deadline begins with the first of them.

        Raises:
            PeerGoneError: the peer ended the connection, or it broke.
            PeerIdleError: nothing came within the idle time-out; call again, or give up.
            PeerTimeoutError: the rest did not come within the message time-out.
        """
        view = _allocate(n_bytes)
        try:
            n_read = self._receive_into(view, time.monotonic() + self._idle_timeout)
        except TimeoutError:
            raise PeerIdleError(
                f"no message came for {self._idle_timeout:g} s, expected one or the end of the session"
            ) from None
        if not n_read:
            raise PeerGoneError("the peer ended the connection")
        self._read_deadline = time.monotonic() + self._message_timeout
        self._fill(view, n_read)
        return view

    def read_exactly(self, n_bytes: int) -> memoryview:
        """Return the next bytes of the message that :meth:`read_start` began, and raise as it does."""
        view = _allocate(n_bytes)
        self._fill(view, 0)
        return view

    def close(self, linger: float = 0.0) -> None:
        """Close the connection, from any thread; whoever reads or sends meets PeerGoneError.

        With ``linger`` the peer has so many seconds to read what was sent last: closing while bytes of its
        own lie unread resets the connection, and the reset overtakes an error's text.
        """
        with suppress(OSError):
            if linger > 0:
                self._outgoing.shutdown(socket.SHUT_WR)
                deadline = time.monotonic() + linger
                while self._receive_into(_allocate(_DRAIN_BYTES), deadline):
                    pass
        with suppress(OSError):
            self._incoming.shutdown(socket.SHUT_RDWR)
        self._incoming.close()
        self._outgoing.close()

    def _fill(self, view: memoryview, n_read: int) -> None:
        while n_read < len(view):
            try:
                n_new = self._receive_into(view[n_read:], self._read_deadline)
            except TimeoutError:
                raise PeerTimeoutError(
                    f"a message did not arrive within {self._message_timeout:g} s of its first byte "
                    f"({n_read} of {len(view)} bytes of a part came)"
                ) from None
            except PeerGoneError as error:
                raise ProtocolError(f"in a message, {error}") from None
            if not n_new:
                raise ProtocolError(
                    f"the connection ended in a message, after {n_read} of {len(view)} bytes of a part"
                )
            n_read += n_new

    def _receive_into(self, view: memoryview, deadline: float) -> int:
        try:
            self._incoming.settimeout(_left(deadline))
            return self._incoming.recv_into(view)
        except TimeoutError:
            raise
        except OSError as error:
            raise _broken(error) from None


def _allocate(n_bytes: int) -> memoryview:
    # The system gives the pages of either when they are written: a length alone costs none. A large array
    # from the heap would be huge pages, and leave holes in it that other threads do not fill.
    try:
        return (
            memoryview(mmap.mmap(-1, n_bytes))
            if n_bytes >= _LARGE_BYTES
            else np.empty(n_bytes, np.uint8).data
        )
    except (MemoryError, OSError):
        raise ProtocolError(f"a part of {n_bytes} bytes does not fit in memory; lower the limit") from None


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _broken(error: OSError) -> PeerGoneError:
    return PeerGoneError(f"the connection broke ({error.strerror or error})")
