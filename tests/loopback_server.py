"""A server of one session in this process, which does what a test tells it."""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from sbim_deploy.mrd.messages import IMAGE_HEADER, Close, Flag, Image, ProtocolError, Readout
from sbim_deploy.mrd.socket import SocketStream
from sbim_deploy.mrd.stream import Limits


@contextmanager
def serving(session, timeout=10):
    """Give the port of a server and the future of what `session`, which takes its stream, returns."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        server.settimeout(timeout)

        def run():
            connection, _ = server.accept()
            with SocketStream(connection, timeout, timeout) as stream:
                return session(stream)

        future = pool.submit(run)
        yield server.getsockname()[1], future


def receive_all(stream):
    """Give what comes up to and without CLOSE."""
    messages = []
    while not isinstance(message := stream.receive(Limits()), Close):
        messages.append(message)
    return messages


def image_of(readout):
    """An image whose pixels are the last readout's first sample, with the readout's counters."""
    header = np.zeros((), IMAGE_HEADER)[()]
    header["data_type"], header["channels"], header["matrix_size"] = 2, 1, (4, 3, 1)
    for name in ("slice", "repetition", "contrast", "phase", "set"):
        header[name] = readout.header["idx"][name]
    header["image_index"], header["image_series_index"] = readout.header["scan_counter"], 1
    pixels = np.full((1, 1, 3, 4), readout.data[0, 0].real, np.int16)
    return Image(header, "<ismrmrdMeta/>", pixels)


def echo(stream):
    """Answer the last readout of each slice with an image at once; give what came."""
    messages = []
    while not isinstance(message := stream.receive(Limits()), Close):
        messages.append(message)
        if isinstance(message, Readout) and message.has(Flag.LAST_IN_SLICE):
            stream.send(image_of(message))
    stream.send(Close())
    return messages


def answer_then_drain(*answers):
    """A session that sends some messages at once, then takes what comes until the end."""

    def session(stream):
        for answer in answers:
            stream.send(answer)
        messages = []
        try:
            while True:
                messages.append(stream.receive(Limits()))
        except ProtocolError:
            return messages

    return session
