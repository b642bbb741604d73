"""The runtime needs neither PyTorch nor onnx, and the program starts at once."""

import subprocess
import sys
from pathlib import Path

RECON_WITHOUT = """
import sys
for name in ("torch", "onnx", "onnxscript", "nilearn", "yaml", "skimage"):
    sys.modules[name] = None  # an import of it raises ImportError
from sbim_deploy.cli.app import main
sys.argv = ["sbim-deploy", "recon", sys.argv[1], "-o", sys.argv[2], "--steps", "2", "--slices", "0:1"]
main()
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
