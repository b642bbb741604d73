"""The runtime needs neither PyTorch nor onnx, and the program starts at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from sbim_deploy.runs.simulate import SimulateSettings, simulate_file

RECON_WITHOUT = """
import sys
for name in ("torch", "onnx", "onnxscript", "nilearn", "yaml", "skimage"):
    sys.modules[name] = None  # an import of it raises ImportError
from sbim_deploy.cli.app import main
sys.argv = ["sbim-deploy", "recon", sys.argv[1], "-o", sys.argv[2], "--steps", "2", "--slices", "0:1"]
main()
"""
PEAK = """
import resource, sys
from pathlib import Path
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.samplers.choice import SamplerChoice
settings = ReconSettings(choice=SamplerChoice(steps=1), slices=(0, int(sys.argv[3])))
reconstruct_file(Path(sys.argv[1]), Path(sys.argv[2]), settings)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
HELP = """
import sys
from sbim_deploy.cli.app import main
sys.argv = ["sbim-deploy", "--help"]
try:
    main()
finally:
    heavy = {"numpy", "scipy", "h5py", "PIL", "onnxruntime", "torch", "rich"} & set(sys.modules)
    assert not heavy, heavy
"""


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_recon_runs_where_torch_and_onnx_cannot_be_imported(simulated: Path, tmp_path: Path) -> None:
    done = run_python(RECON_WITHOUT, simulated, tmp_path / "out.h5")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.h5").is_file()


def test_help_imports_nothing_heavy() -> None:
    done = run_python(HELP)
    assert done.returncode == 0, done.stderr
    assert "recon" in done.stdout


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_slices(tmp_path: Path) -> None:
    kspace = tmp_path / "kspace.h5"
    settings = SimulateSettings(n_slices=32, n_coils=16, size=128, acceleration=2.0)
    simulate_file(kspace, settings)
    peaks = []
    for n_slices in (2, 32):
        done = run_python(PEAK, kspace, tmp_path / f"{n_slices}.h5", n_slices)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) * 1024)
    # The 30 slices more are 63 MB of k-space and as much of maps.
    assert peaks[1] - peaks[0] < 20e6
