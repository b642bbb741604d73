"""A server in this process, a small client of its own, and scans of simulated slices."""

import socket
import struct
import threading
import time
from contextlib import contextmanager

import numpy as np

from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Close, ConfigFile, Flag, Header, Image, Readout, Text
from sbim_deploy.mrd.socket import SocketStream
from sbim_deploy.mrd.stream import Limits, write_message
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.runs.simulate import SimulateSettings, simulate_slice
from sbim_deploy.serving.server import Server
from sbim_deploy.serving.settings import ServeSettings

SIZE, COILS = 48, 4
MASK = line_mask(SIZE, 2.0)
LAST = 1 << (Flag.LAST_IN_SLICE - 1)
QUICK = '{"version": "1", "parameters": {"steps": 2}}'
LIMITS = Limits()


def header_xml(size=SIZE, trajectory="cartesian", extra=""):
    space = (
        f"<matrixSize><x>{size}</x><y>{size}</y><z>1</z></matrixSize>"
        "<fieldOfView_mm><x>220</x><y>220</y><z>5</z></fieldOfView_mm>"
    )
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<subjectInformation><patientName>Doe^Jane</patientName></subjectInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz>"
        "</experimentalConditions><encoding>"
        f"<encodedSpace>{space}</encodedSpace><reconSpace>{space}</reconSpace>"
        f"<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{size - 1}</maximum>"
        f"<center>{size // 2}</center></kspace_encoding_step_1></encodingLimits>"
        f"<trajectory>{trajectory}</trajectory></encoding>{extra}</ismrmrdHeader>"
    )


def kspace_of(index, gain=1.0):
    """The k-space (coil, rows, columns) of one simulated slice; another for each index."""
    scan = simulate_slice(SimulateSettings(16, COILS, SIZE, 2.0), MASK, index)
    return (gain * scan.kspace).astype(np.complex64)


def readouts(kspace, number=0, repetition=0, last=True):
    """The lines of a slice as readouts, in order, the last one flagged."""
    lines = np.flatnonzero(kspace.any(axis=(0, 1)))
    made = []
    for line in lines:
        header = np.zeros((), ACQUISITION_HEADER)[()]
        header["version"], header["measurement_uid"] = 1, 77
        header["number_of_samples"], header["center_sample"] = kspace.shape[1], kspace.shape[1] // 2
        header["available_channels"] = header["active_channels"] = len(kspace)
        header["idx"]["kspace_encode_step_1"] = line
        header["idx"]["slice"], header["idx"]["repetition"] = number, repetition
        header["position"] = (1.0, 2.0, 3.0 + number)
        header["read_dir"], header["phase_dir"], header["slice_dir"] = np.eye(3)
        header["flags"] = LAST if last and line == lines[-1] else 0
        made.append(Readout(header, np.ascontiguousarray(kspace[:, :, line])))
    return made


@contextmanager
def serving(**settings):
    """A server on a free port, in a thread; it is drained at the end."""
    server = Server(ServeSettings(**{"port": 0, "threads": 1, "backend": "onnxruntime", **settings}))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.drain()
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def connected(server, timeout=30.0):
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    with SocketStream(sock, timeout, timeout) as stream:
        yield stream


def begin(stream, config="default", parameters=QUICK, xml=None):
    stream.send(ConfigFile(config))
    stream.send(Header(xml or header_xml()))
    if parameters is not None:
        stream.send(Text(parameters))


def receive_all(stream):
    """Everything that the server sends up to its CLOSE, which is not in the list."""
    got = []
    while not isinstance(message := stream.receive(LIMITS), Close):
        got.append(message)
    return got


def run_session(server, messages, config="default", parameters=QUICK, xml=None):
    """Send a session and return what came back."""
    with connected(server) as stream:
        begin(stream, config, parameters, xml)
        for message in messages:
            stream.send(message)
        stream.send(Close())
        return receive_all(stream)


def gives_back(server, timeout=10.0):
    """Whether the memory of a session comes back, which it does a moment after its CLOSE."""
    until = time.monotonic() + timeout
    while server.buffered_bytes and time.monotonic() < until:
        time.sleep(0.01)
    return server.buffered_bytes == 0


def as_bytes(*messages):
    return b"".join(bytes(buffer) for message in messages for buffer in write_message(message))


def pixels(image: Image):
    """The (rows, columns) of an image message."""
    assert image.data.shape[:2] == (1, 1)
    return image.data[0, 0].T


def attributes(image: Image):
    from ismrmrd import Meta

    return Meta.deserialize(image.attributes)


def words(messages):
    return [message.text for message in messages if not isinstance(message, Image)]


def raw_send(server, data):
    """Send bytes as they are, and return the bytes that come back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(data)
        got = b""
        while part := sock.recv(65536):
            got += part
    return got


CLOSE_BYTES = struct.pack("<H", 4)
