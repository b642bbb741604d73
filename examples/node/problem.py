"""Write what reconstruct.onnx takes for a slice of a fastMRI file, for hosts that have no Python.

    python problem.py kspace.h5 problem.safetensors --slice 0 --seed 0

The image that the graph returns is in units of `scale`, which stands in the file's metadata.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.numpy import save_file

from sbim_deploy.kspace.fastmri import open_kspace
from sbim_deploy.models.folder import load_model
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kspace", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--slice", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    with open_kspace(arguments.kspace) as kspace:
        problem = prepare_slice(kspace.read_slice(arguments.slice), arguments.slice, kspace.mask)
    reconstructor = Reconstructor(load_model(arguments.model), seed=arguments.seed, graph="reconstruct")
    graph, arrays = reconstructor.graph_inputs([problem])
    save_file(arrays, arguments.output, metadata={"graph": graph, "scale": repr(problem.scale)})
    print(f"{arguments.output}: {graph}, {', '.join(arrays)}")


if __name__ == "__main__":
    main()
