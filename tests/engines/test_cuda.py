"""What CUDA answers becomes an error that says what to do."""

import ctypes

import pytest
from fake_cuda import Status

from sbim_deploy.engines import cuda
from sbim_deploy.errors import BackendMissingError, InputError, SbimDeployError


def test_every_cuda_error_names_its_call(fake, monkeypatch):
    _, runtime, _ = fake()
    monkeypatch.setattr(runtime, "cudaSetDevice", lambda device: (Status.cudaErrorNoDevice,))
    with pytest.raises(BackendMissingError, match=r"no NVIDIA GPU.*\(cudaSetDevice: cudaErrorNoDevice"):
        cuda.current_device()
    monkeypatch.setattr(runtime, "cudaMalloc", lambda size: (Status.cudaErrorInvalidValue, None))
    with pytest.raises(SbimDeployError, match="cudaMalloc returned cudaErrorInvalidValue"):
        cuda.call("cudaMalloc", 16)
    monkeypatch.setattr(runtime, "cudaMalloc", lambda size: (Status.cudaErrorMemoryAllocation, None))
    with pytest.raises(InputError, match=r"out of memory .*for 3 MiB"):
        cuda.call("cudaMalloc", 3 * 1024**2)


def test_a_gpu_that_is_not_ready_is_a_backend_that_is_missing_with_the_way_out(fake, monkeypatch):
    _, runtime, _ = fake()
    monkeypatch.setattr(runtime, "cudaSetDevice", lambda device: (Status.cudaErrorSystemNotReady,))
    with pytest.raises(BackendMissingError, match=r"start NVIDIA's Fabric Manager.*cudaErrorSystemNotReady"):
        cuda.current_device()


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_driver_that_is_too_old_is_named_with_both_versions(fake, monkeypatch, is_installed):
    class Driver:
        def cuDriverGetVersion(self, version):
            ctypes.cast(version, ctypes.POINTER(ctypes.c_int))[0] = 12040
            return 0

    def load(name):
        if not is_installed:
            raise OSError(name)
        return Driver()

    _, runtime, _ = fake()
    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(runtime, "cudaSetDevice", lambda device: (Status.cudaErrorInsufficientDriver,))
    expected = (
        r"too old: it is for CUDA 12\.4, and CUDA 13\.5 is needed: update the driver"
        if is_installed
        else r"no NVIDIA driver is installed here, and CUDA 13\.5 needs one"
    )
    with pytest.raises(BackendMissingError, match=expected):
        cuda.current_device()


def test_a_gpu_that_is_not_there_is_named_by_the_option(fake):
    fake()
    with pytest.raises(InputError, match="--device: this machine has no GPU of that number"):
        cuda.current_device(2)
