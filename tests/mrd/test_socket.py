import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mrd_samples import assert_same, sample_image, sample_messages, sample_readout
from sbim_deploy.errors import InputError
from sbim_deploy.mrd.messages import (
    Close,
    Error,
    Header,
    PeerGoneError,
    PeerIdleError,
    PeerTimeoutError,
    ProtocolError,
    Text,
)
from sbim_deploy.mrd.socket import SocketStream
from sbim_deploy.mrd.stream import Limits, write_message

LIMITS = Limits(max_message_bytes=64 * 1024**2)
SHORT = 0.2


def loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    return near, far


@pytest.fixture
def pair():
    near, far = loopback()
    with SocketStream(near, 5, 5) as stream, far:
        yield stream, far


def streams(idle=5.0, message=5.0):
    near, far = loopback()
    return SocketStream(near, idle, message), SocketStream(far, idle, message)


def test_messages_arrive_as_they_were_sent_one_byte_at_a_time(pair):
    stream, far = pair
    sent = sample_messages()

    def dribble():
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"".join(buffer for message in sent for buffer in write_message(message)):
            far.send(bytes([byte]))

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(dribble)
        for message in sent:
            assert_same(stream.receive(LIMITS), message)
        done.result()


def test_both_sides_send_more_than_the_buffers_hold_and_receive_at_the_same_time():
    image = sample_image(data_type=8, shape=(8, 8, 256, 256))  # 64 MiB
    one, other = streams(10, 10)
    with one, other, ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(stream.send, image) for stream in (one, other)]
        received = [pool.submit(stream.receive, LIMITS) for stream in (one, other)]
        for each in received:
            assert_same(each.result(), image)
        for each in sending:
            each.result()


def test_messages_of_several_threads_do_not_mix():
    one, other = streams()
    image = sample_image(data_type=5, shape=(1, 1, 300, 300))
    with one, other, ThreadPoolExecutor(4) as pool:
        for _ in range(16):
            pool.submit(one.send, image)
        for _ in range(16):
            assert_same(other.receive(LIMITS), image)


def test_a_peer_that_ends_between_messages_is_gone(pair):
    stream, far = pair
    far.sendall(b"".join(write_message(Close())))
    far.shutdown(socket.SHUT_WR)
    assert stream.receive(LIMITS) == Close()
    with pytest.raises(PeerGoneError, match="ended the connection"):
        stream.receive(LIMITS)


def test_a_peer_that_ends_in_a_message_has_cut_it(pair):
    stream, far = pair
    far.sendall(b"".join(write_message(Header("<ismrmrdHeader/>")))[:-1])
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(ProtocolError, match="after 15 of 16 bytes") as caught:
        stream.receive(LIMITS)
    assert not isinstance(caught.value, PeerGoneError)


def test_a_connection_that_is_reset_is_gone(pair):
    stream, far = pair
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()
    with pytest.raises(PeerGoneError, match="broke"):
        stream.receive(LIMITS)
    with pytest.raises(PeerGoneError, match="broke"):
        stream.send(Text("hello"))


def test_a_silent_peer_meets_the_idle_time_out():
    one, other = streams(idle=SHORT)
    with one, other:
        started = time.monotonic()
        with pytest.raises(PeerIdleError, match=r"no message came for 0\.2 s"):
            one.receive(LIMITS)
        assert SHORT <= time.monotonic() - started < 2
        other.send(Text("late"))
        assert one.receive(LIMITS) == Text("late")


def test_a_peer_that_drips_bytes_meets_the_message_s_time_out():
    near, far = loopback()
    stopped = threading.Event()

    def drip():
        for byte in b"".join(write_message(sample_readout(4, 256))):
            if stopped.wait(SHORT / 10):
                return
            far.send(bytes([byte]))

    with SocketStream(near, 5, SHORT) as stream, far, ThreadPoolExecutor(1) as pool:
        pool.submit(drip)
        started = time.monotonic()
        with pytest.raises(PeerTimeoutError, match=r"within 0\.2 s of its first byte"):
            stream.receive(LIMITS)
        assert time.monotonic() - started < 2
        stopped.set()


def test_each_message_has_the_whole_time_to_itself():
    one, other = streams(message=SHORT)

    def send():
        for _ in range(4):
            time.sleep(SHORT / 2)
            other.send(Text("x"))

    with one, other, ThreadPoolExecutor(1) as pool:
        pool.submit(send)
        assert [one.receive(LIMITS) for _ in range(4)] == [Text("x")] * 4


def test_a_peer_that_takes_nothing_meets_the_time_out_of_sending():
    one, other = streams(message=SHORT)
    image = sample_image(data_type=8, shape=(8, 8, 256, 256))
    with one, other:
        started = time.monotonic()
        with pytest.raises(PeerTimeoutError, match=r"did not take a message within 0\.2 s"):
            one.send(image)
        assert time.monotonic() - started < 2


def test_sending_does_not_shorten_the_time_to_receive():
    one, other = streams(idle=5, message=SHORT)
    with one, other, ThreadPoolExecutor(1) as pool:
        received = pool.submit(one.receive, LIMITS)
        for _ in range(3):
            one.send(Text("x"))
            time.sleep(SHORT)
        other.send(Text("late"))
        assert received.result() == Text("late")


def test_closing_wakes_the_thread_that_reads():
    one, other = streams(idle=30)
    with other, ThreadPoolExecutor(1) as pool:
        received = pool.submit(one.receive, LIMITS)
        time.sleep(0.05)
        one.close()
        with pytest.raises(PeerGoneError):
            received.result(timeout=5)
    with pytest.raises(PeerGoneError):
        one.send(Close())


def test_a_lingering_close_lets_the_peer_read_the_last_words():
    one, other = streams()
    with other:
        for _ in range(200):
            other.send(Text("x" * 1000))  # what lies unread would reset the connection
        one.send(Error("enough"))
        one.send(Close())
        with ThreadPoolExecutor(1) as pool:
            closing = pool.submit(one.close, 5.0)
            time.sleep(0.05)
            assert other.receive(LIMITS) == Error("enough")
            assert other.receive(LIMITS) == Close()
            with pytest.raises(PeerGoneError):
                other.receive(LIMITS)
            other.close()
            closing.result()


def test_a_lingering_close_has_an_end():
    one, other = streams()
    with other:
        started = time.monotonic()
        one.close(SHORT)
        assert time.monotonic() - started < 2


def test_arrays_that_were_received_can_be_written_to():
    one, other = streams()
    with one, other:
        other.send(sample_readout())
        readout = one.receive(LIMITS)
        readout.data[:] = np.complex64(1)
        readout.header["scan_counter"] = 3


def test_time_outs_of_zero_are_refused():
    near, far = loopback()
    with near, far, pytest.raises(InputError, match="more than 0"):
        SocketStream(near, 0, 1)
