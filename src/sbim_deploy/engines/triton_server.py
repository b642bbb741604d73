"""A connection to a Triton Inference Server: its calls with time-outs, its errors as ours."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Any

from sbim_deploy.errors import BackendMissingError, EngineIncompatibleError, InputError, SbimDeployError

CONTROL_TIMEOUT_S = 10.0  # of what needs no computing
CALL_TIMEOUT_S = 600.0  # of an inference, with its time in the server's queue
MAX_ANSWER_BYTES = 256 * 1024**2
MAX_MESSAGE = 300

_ADDRESS = re.compile(
    r"(?:(?P<name>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}))|\[(?P<ip>[0-9A-Fa-f:.]{2,45})\]):(?P<port>\d{1,5})"
)


class TritonServer:
    """A server at HOST:PORT, its gRPC port, that was there a moment ago.

    Args:
        url: such as 127.0.0.1:8001 or [::1]:8001.
        timeout_s: of an inference.

    Raises:
        InputError: the address is none.
        BackendMissingError: tritonclient is not installed, or no server answers.
    """

    def __init__(self, url: str, timeout_s: float = CALL_TIMEOUT_S):
        self.url, self._timeout_s = url, timeout_s
        self.is_local = _is_loopback(url)
        self._triton = _import_tritonclient()
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ]
        if self.is_local:
            options.append(("grpc.enable_http_proxy", 0))
        self._client = self._triton.InferenceServerClient(url, channel_args=options)
        metadata = self._control("get_server_metadata")
        self.version = one_line(metadata.version)

    def config(self, model: str) -> Any:
        """Return a served model's ModelConfig.

        Raises:
            EngineIncompatibleError: the server does not serve it: the message says what it serves.
        """
        if not self._control("is_model_ready", model):
            index = self._control("get_model_repository_index")
            ready = [one_line(each.name) for each in index.models if each.state in ("READY", "")]
            raise EngineIncompatibleError(
                f"{self.url}: the server has no model {model} ready, only {_listed(ready)}: write its "
                "repository with sbim-deploy triton and start the server on it"
            )
        return self._control("get_model_config", model).config

    def infer(self, model: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Return the answer to an inference, tritonclient's InferResult.

        Raises:
            BackendMissingError: the server is gone, or did not answer in time.
            InputError: it refuses the request.
        """
        return self._ask(
            lambda: self._client.infer(
                model, list(inputs), outputs=list(outputs), client_timeout=self._timeout_s
            ),
            self._timeout_s,
        )

    def register_memory(self, name: str, n_bytes: int) -> None:
        """Let the server map the shared memory of a name.

        Raises:
            SbimDeployError: it cannot.
        """
        self._control("register_system_shared_memory", name, f"/{name}", n_bytes)

    def forget_memory(self, name: str) -> None:
        """Let the server unmap shared memory; a server that is gone has."""
        try:
            self._control("unregister_system_shared_memory", name)
        except SbimDeployError:
            return

    def new_input(self, name: str, shape: Sequence[int], datatype: str) -> Any:
        """Return tritonclient's InferInput."""
        return self._triton.InferInput(name, list(shape), datatype)

    def new_output(self, name: str) -> Any:
        """Return tritonclient's InferRequestedOutput."""
        return self._triton.InferRequestedOutput(name)

    def _control(self, call: str, *arguments: Any) -> Any:
        bound = getattr(self._client, call)
        return self._ask(lambda: bound(*arguments, client_timeout=CONTROL_TIMEOUT_S), CONTROL_TIMEOUT_S)

    def _ask(self, call: Callable[[], Any], timeout_s: float) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return call()
        except InferenceServerException as error:
            raise self._as_ours(error, timeout_s) from error

    def _as_ours(self, error: Any, timeout_s: float) -> SbimDeployError:
        status = str(error.status()).removeprefix("StatusCode.")
        reason = one_line(str(error.message()))
        if status == "UNAVAILABLE":
            return BackendMissingError(
                f"{self.url}: no Triton server answers ({reason}): start it, or check the address"
            )
        if status == "DEADLINE_EXCEEDED":
            return BackendMissingError(
                f"{self.url}: the Triton server did not answer within {timeout_s:g} s: see its log"
            )
        if status in ("INVALID_ARGUMENT", "NOT_FOUND"):
            return InputError(f"{self.url}: the Triton server refuses the request: {reason}")
        return SbimDeployError(f"{self.url}: the Triton server failed, {status}: {reason}")


def check_address(url: str) -> None:
    """Raise InputError where ``url`` is no HOST:PORT."""
    match = _ADDRESS.fullmatch(url)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise InputError(
            f"url is {url[:80]!r}: expected HOST:PORT of a server's gRPC, such as 127.0.0.1:8001"
        )


def _is_loopback(url: str) -> bool:
    check_address(url)
    match = _ADDRESS.fullmatch(url)
    assert match is not None
    host = match["ip"] or match["name"]
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _import_tritonclient() -> Any:
    try:
        import tritonclient.grpc
    except ImportError as error:
        raise BackendMissingError(
            'the client of Triton is not installed: pip install "sbim-deploy[triton]"'
        ) from error
    return tritonclient.grpc


def _listed(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:20]) or "none"


def one_line(text: str) -> str:
    """Return a server's words in one short line of printable characters."""
    line = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(line.split())
    return line if len(line) <= MAX_MESSAGE else f"{line[:MAX_MESSAGE]}..."
