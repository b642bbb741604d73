"""The page draws the noise that Python draws."""

import subprocess

import numpy as np
import pytest
from browser_scans import TRY

from sbim_deploy.samplers.noise import keyed_generator

N = 50_000


@pytest.mark.parametrize(("seed", "slice_index", "sample"), [(0, 0, 0), (3, 17, 2), (2**40 + 5, 4, 0)])
def test_noise_is_numpys(node, seed, slice_index, sample):
    script = f"""import {{ noiseStream }} from "{(TRY / "mri" / "noise_stream.js").as_uri()}";
    const drawn = noiseStream({seed}, {slice_index}, {sample})(new Float32Array({N}));
    process.stdout.write(new Uint8Array(drawn.buffer));"""
    command = [node, "--input-type=module", "--eval", script]
    drawn = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.float32)
    expected = keyed_generator(seed, slice_index, sample).standard_normal(N, dtype=np.float32)
    # Logarithms of single precision may differ in the last bit, in the tails alone.
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-6)
