"""Reconstructs the cases of benchmarks/forward_model.py with whatever version of the package is imported.

python benchmarks/reconstruct_cases.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import sbim_deploy
from sbim_deploy.errors import SbimDeployError


def main() -> None:
    folder = Path(sys.argv[1])
    model = sbim_deploy.load_model("demo")
    for case in sorted(folder.glob("case*.npz")):
        with np.load(case) as stored:
            options = {name: stored[name] for name in stored.files}
        if "image_shape" in options:
            options["image_shape"] = tuple(int(n) for n in options["image_shape"])
        try:
            image = model.reconstruct(**options).image
        except SbimDeployError as error:
            print(f"{case.name}: {error}", file=sys.stderr)
            continue
        np.save(folder / case.name.replace("case", "image").replace(".npz", ".npy"), image)


if __name__ == "__main__":
    main()
