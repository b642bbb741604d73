"""How close a magnitude image is to its reference; the data range is the reference's maximum unless given."""

from __future__ import annotations

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

Image = NDArray[np.float32]


def nrmse(image: Image, reference: Image) -> float:
    """Return |image - reference| / |reference|."""
    return float(np.linalg.norm(image - reference) / np.linalg.norm(reference))


def nmse(image: Image, reference: Image) -> float:
    """Return |image - reference|^2 / |reference|^2, fastMRI's definition; of a volume it is one number.

    Zbontar et al. 2018 (arXiv:1811.08839), section 5.
    """
    return nrmse(image, reference) ** 2


def psnr(image: Image, reference: Image, data_range: float | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    peak = float(reference.max()) if data_range is None else data_range
    mean_square = np.mean((image.astype(np.float64) - reference) ** 2)
    return float(10 * np.log10(peak**2 / mean_square)) if mean_square else float("inf")


def ssim(image: Image, reference: Image, data_range: float | None = None) -> float:
    """Return the structural similarity with a uniform 7 x 7 window.

    Wang et al. 2004 (doi:10.1109/TIP.2003.819861), with the sample covariance and without the border where
    the window leaves the image: scikit-image's, and fastMRI's, definition. It stands here because
    scikit-image is heavier than the whole runtime.
    """
    window = 7
    x, y = image.astype(np.float64), reference.astype(np.float64)
    peak = y.max() if data_range is None else data_range

    def local_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = scipy.ndimage.uniform_filter(values, window)
        return means

    unbiased = window**2 / (window**2 - 1)
    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = unbiased * (local_mean(x * x) - mean_x**2)
    variance_y = unbiased * (local_mean(y * y) - mean_y**2)
    covariance = unbiased * (local_mean(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    border = window // 2
    return float(similarity[border:-border, border:-border].mean())
