"""An ONNX Runtime that says it has a GPU, and computes on the CPU with the real package."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime

CUDA = "CUDAExecutionProvider"


def assigned(provider, *operators):
    nodes = [SimpleNamespace(name=f"node_{i}", op_type=each, domain="") for i, each in enumerate(operators)]
    return SimpleNamespace(ep_name=provider, get_nodes=lambda: nodes)


class FakeRuntime(ModuleType):
    """What the engine uses of ``onnxruntime``, with CUDA. It keeps what it was asked for.

    ``ignored`` are options that sessions do not take, ``assigned`` the nodes by provider, and
    ``placing`` is raised where an array is put on the GPU.
    """

    __version__ = "1.31.1"
    cuda_version = "13.0"

    def __init__(self):
        super().__init__("onnxruntime")
        self.sessions, self.placed = [], []
        self.ignored, self.placing, self.printed = {}, None, ""
        self.__file__ = __file__  # beside which there is no library to load
        self.assigned = [assigned(CUDA, "Conv", "Add")]
        self.SessionOptions = onnxruntime.SessionOptions
        runtime = self

        class InferenceSession:
            def __init__(self, path, sess_options=None, providers=None, provider_options=None, **kwargs):
                self._session = onnxruntime.InferenceSession(
                    path, sess_options, providers=["CPUExecutionProvider"], **kwargs
                )
                self._providers = providers
                self.options = sess_options
                runtime.sessions.append(self)

            def __getattr__(self, name):
                return getattr(self._session, name)

            def get_providers(self):
                return [name for name, _ in self._providers] + ["CPUExecutionProvider"]

            def get_provider_options(self):
                # The provider has all its options, with what was given in place of its defaults.
                defaults = {"use_tf32": "1", "device_id": "0"}
                return {name: {**defaults, **given, **runtime.ignored} for name, given in self._providers}

            def get_provider_graph_assignment_info(self):
                recorded = "session.record_ep_graph_assignment_info"
                try:
                    is_on = self.options.get_session_config_entry(recorded) == "1"
                except RuntimeError:
                    is_on = False
                return runtime.assigned if is_on else []

        class OrtValue:
            @staticmethod
            def ortvalue_from_numpy(numpy_obj, device_type="cpu", device_id=0, **kwargs):
                if device_type == "cuda":
                    if runtime.placing is not None:
                        raise runtime.placing
                    runtime.placed.append(device_id)
                return onnxruntime.OrtValue.ortvalue_from_numpy(np.array(numpy_obj))

        self.InferenceSession, self.OrtValue = InferenceSession, OrtValue

    def get_available_providers(self):
        return [CUDA, "CPUExecutionProvider"]

    def preload_dlls(self, cuda=True, cudnn=True, msvc=True, directory=None):
        sys.stdout.write(self.printed)
