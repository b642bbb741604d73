"""Coil compression: fewer virtual coils that hold most of the signal."""

from __future__ import annotations

import numpy as np

from sbim_deploy.records import ComplexArray


def compression_matrix(calibration: ComplexArray, n_virtual: int) -> ComplexArray:
    """Return the (n_virtual, coil) matrix of the strongest left singular vectors of the calibration data.

    Calibration is (coil, ...). The rows are orthonormal, so white noise stays white; apply it with
    ``whitening.mix_coils``. Buehrer et al. 2007 (doi:10.1002/mrm.21237).

    Raises:
        ValueError: ``n_virtual`` is not between 1 and the number of coils.
    """
    n_coils = calibration.shape[0]
    if not 1 <= n_virtual <= n_coils:
        raise ValueError(f"coil compression to {n_virtual} virtual coils: expected 1 to {n_coils}")
    samples = calibration.reshape(n_coils, -1)
    _, vectors = np.linalg.eigh(samples @ samples.conj().T)
    matrix: ComplexArray = vectors[:, ::-1][:, :n_virtual].conj().T
    return matrix
