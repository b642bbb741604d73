"""A small inference server with Triton's gRPC protocol, which runs a model repository in ONNX Runtime."""

from __future__ import annotations

import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

DTYPES = {"FP32": np.float32}
MAX_BYTES = 64 * 1024**2


def read_config(folder: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


@cache
def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Return a session on one thread, which servers of one repository share."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


class Refusal(Exception):
    pass


class KServeServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves a repository on a free port of the loopback.

    ``shares_memory`` false is a server that sees another /dev/shm, ``delay_s`` a busy one; ``answer`` changes
    an output before it is sent, and may return None to send none.
    """

    def __init__(self, repository: Path, shares_memory: bool = True):
        self.shares_memory, self.delay_s = shares_memory, 0.0
        self.answer = lambda name, array: array
        self.configs = {
            path.parent.name: read_config(path.parent) for path in repository.glob("*/config.pbtxt")
        }
        self.regions: dict[str, mmap.mmap] = {}
        self.requests: list[service_pb2.ModelInferRequest] = []
        self._repository = repository
        self._server = grpc.server(
            ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", MAX_BYTES)]
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def ServerMetadata(self, request, context):
        return service_pb2.ServerMetadataResponse(name="test", version="0.test")

    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=request.name in self.configs)

    def RepositoryIndex(self, request, context):
        models = [service_pb2.RepositoryIndexResponse.ModelIndex(name=n, state="READY") for n in self.configs]
        return service_pb2.RepositoryIndexResponse(models=models)

    def ModelConfig(self, request, context):
        return service_pb2.ModelConfigResponse(config=self.configs[request.name])

    def SystemSharedMemoryRegister(self, request, context):
        try:
            if not self.shares_memory:
                raise FileNotFoundError(request.key)
            with open(f"/dev/shm{request.key}", "r+b") as file:
                self.regions[request.name] = mmap.mmap(file.fileno(), request.byte_size)
        except OSError as error:
            context.abort(grpc.StatusCode.INTERNAL, f"unable to open shared memory region: {error}")
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request, context):
        self.regions.pop(request.name, None)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    def ModelInfer(self, request, context):
        self.requests.append(request)
        time.sleep(self.delay_s)
        try:
            return self._infer(request)
        except Refusal as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def _infer(self, request):
        config = self.configs[request.model_name]
        raw = iter(request.raw_input_contents)
        batched = config.max_batch_size > 0
        described = {each.name: each for each in config.input}
        feed = {}
        for tensor in request.inputs:
            shape, expected = tuple(tensor.shape), described[tensor.name]
            if batched and not 0 < shape[0] <= config.max_batch_size:
                raise Refusal(f"batch-size must be <= {config.max_batch_size} for '{config.name}'")
            of_one = shape[1:] if batched else shape
            if len(of_one) != len(expected.dims) or any(
                size not in (-1, n) for size, n in zip(expected.dims, of_one, strict=True)
            ):
                raise Refusal(f"unexpected shape for input '{tensor.name}': {shape} against {expected.dims}")
            data = self._memory(tensor) or next(raw)
            array = np.frombuffer(data, DTYPES[tensor.datatype]).reshape(shape)
            if expected.HasField("reshape"):
                array = array.reshape((*shape[:1], *expected.reshape.shape))
            feed[tensor.name] = array
        names = [each.name for each in request.outputs]
        response = service_pb2.ModelInferResponse(model_name=config.name, model_version="1")
        for tensor, array in zip(request.outputs, self.session(config.name).run(names, feed), strict=True):
            array = self.answer(tensor.name, array)
            if array is None:
                continue
            response.outputs.add(name=tensor.name, datatype="FP32", shape=array.shape)
            place = self._memory(tensor)
            response.raw_output_contents.append(b"" if place else array.tobytes())
            if place:
                place[:] = array.tobytes()
        return response

    def session(self, name: str) -> onnxruntime.InferenceSession:
        return open_session(self._repository / name / "1" / "model.onnx")

    def _memory(self, tensor):
        region = tensor.parameters["shared_memory_region"].string_param
        if not region:
            return None
        if region not in self.regions:
            raise Refusal(f"Unable to find shared memory region: '{region}'")
        offset = tensor.parameters["shared_memory_offset"].int64_param
        size = tensor.parameters["shared_memory_byte_size"].int64_param
        return memoryview(self.regions[region])[offset : offset + size]


def shared_files() -> set[str]:
    """Return the names that this program has in the shared memory of the system."""
    return {name for name in os.listdir("/dev/shm") if name.startswith("sbim-deploy")}
