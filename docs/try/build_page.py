"""Build the page that reconstructs in the browser: a folder of static files, and nothing else is needed.

    python docs/try/build_page.py FOLDER            # then put FOLDER on any web server
    python docs/try/build_page.py FOLDER --serve    # or look at it at http://localhost:8000

Two packages come from the npm registry, by `npm pack`, at the versions and hashes below; the model's files
and the sampler's plan come from the installed sbim_deploy, and the demo's scan is simulated.
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import http.server
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sbim_deploy import __version__
from sbim_deploy.models.backends import LINES_MULTIPLE
from sbim_deploy.models.folder import DEMO, load_model, sampling_prior
from sbim_deploy.records import ComplexArray
from sbim_deploy.runs.simulate import SimulateSettings, sampled_lines, simulate_slice
from sbim_deploy.samplers.choice import make_plan
from sbim_deploy.samplers.plan import plan_as_dict
from sbim_deploy.samplers.presets import DEFAULT_PRESET, PRESETS

HERE = Path(__file__).parent
PACKAGES = HERE / "packages"  # npm's archives, kept for the next build
# Each file that is taken, by its name here. Their licences go along.
SCRIPTS = {
    ("onnxruntime-web", "1.30.0"): (
        "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        {
            "dist/ort.wasm.min.mjs": "ort.wasm.min.mjs",
            "dist/ort.webgpu.min.mjs": "ort.webgpu.min.mjs",
            "dist/ort-wasm-simd-threaded.asyncify.mjs": "ort-wasm-simd-threaded.asyncify.mjs",
            "dist/ort-wasm-simd-threaded.asyncify.wasm": "ort-wasm-simd-threaded.asyncify.wasm",
            "dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.mjs",
            "dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
        },
    ),
    ("h5wasm", "0.10.3"): (
        "sha512-W4Jy5ExtX/VNbyD8GdOBckDuj6AL16TemppVNxZsV3rJZEWCv2sxlCzOttZLer3zkMttbDYsWHl0qt1z3Bln+Q==",
        {
            "dist/esm/hdf5_hl.js": "hdf5_hl.js",
            "dist/esm/hdf5_util.js": "hdf5_util.js",
            "dist/esm/file_handlers.js": "file_handlers.js",
            "LICENSE.txt": "LICENSE-h5wasm.txt",
        },
    ),
}


PAGE = ("index.html", "try.css", "package.json", "*.js", "mri/*.js", "files/*.js")
MODEL = ("reconstruct-proximal.onnx", "reconstruct-proximal-2d.onnx", "weights.bin")
# Pages that are isolated may share memory between threads, which makes WebAssembly faster.
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--serve", action="store_true", help="serve the folder to this machine")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    build(arguments.folder)
    n_bytes = sum(path.stat().st_size for path in arguments.folder.rglob("*") if path.is_file())
    print(f"{arguments.folder}: {n_bytes / 1e6:.0f} MB of static files")
    if arguments.serve:
        with page_server(arguments.folder, arguments.port) as server:
            print(f"http://localhost:{server.server_port} (Ctrl+C ends it)")
            server.serve_forever()


def build(folder: Path) -> None:
    """Write the whole page into a folder, over what was built there before."""
    built = folder / "built"
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    for pattern in PAGE:
        for path in sorted(HERE.glob(pattern)):
            to = folder / path.relative_to(HERE)
            to.parent.mkdir(exist_ok=True)
            shutil.copy(path, to)
    for (name, version), (integrity, files) in SCRIPTS.items():
        with tarfile.open(_archive(name, version, integrity)) as archive:
            for member, to_name in files.items():
                content = archive.extractfile(f"package/{member}")
                assert content is not None
                (built / to_name).write_bytes(content.read())
    shutil.copy(HERE.parents[1] / "NOTICE", built / "NOTICE.txt")
    model = load_model(DEMO)  # which checks the hashes
    for name in MODEL:
        shutil.copy(model.folder / name, built / name)
    (built / "plan.json").write_text(json.dumps(sampler_plan()))
    np.save(built / "demo.npy", demo_kspace())


def sampler_plan() -> dict[str, Any]:
    """Return the plan of the default preset for the demo model, and what else the page must know."""
    manifest = load_model(DEMO).manifest
    preset = PRESETS[DEFAULT_PRESET]
    return {
        **plan_as_dict(make_plan(preset.choice, sampling_prior(manifest))),
        "preset": DEFAULT_PRESET,
        "model": manifest.name,
        "size_multiple": manifest.size_multiple,
        "lines_multiple": LINES_MULTIPLE,
        "version": __version__,
    }


def demo_kspace() -> ComplexArray:
    """Return the first slice of `sbim-deploy demo`, (coil, rows, columns)."""
    settings = SimulateSettings()
    return simulate_slice(settings, sampled_lines(settings), 0).kspace


def page_server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """Return a server of the page on this machine alone; port 0 takes a free one."""
    return http.server.ThreadingHTTPServer(
        ("127.0.0.1", port), functools.partial(_Handler, directory=str(folder))
    )


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map: ClassVar = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def end_headers(self) -> None:
        for name, value in ISOLATION.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of each file."""


def _archive(name: str, version: str, integrity: str) -> Path:
    """Return npm's archive of a package, fetched unless it is here, with the hash that is expected."""
    path = PACKAGES / f"{name}-{version}.tgz"
    if not path.exists():
        PACKAGES.mkdir(exist_ok=True)
        command = ["npm", "pack", f"{name}@{version}", "--silent", "--pack-destination", str(PACKAGES)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise SystemExit(
                "npm is not installed, which fetches the page's scripts: install Node.js"
            ) from None
        if done.returncode:
            raise SystemExit(
                f"npm cannot fetch {name} {version}, which the page needs: {done.stderr.strip()}"
            )
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != integrity:
        raise SystemExit(f"{path}: its SHA-512 is {digest}, expected {integrity}: remove it and build again")
    return path


if __name__ == "__main__":
    main()
