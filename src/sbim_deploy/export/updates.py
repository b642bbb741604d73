"""The rows of a plan as PyTorch modules that take the score: what the fused graphs add to the network.

Inference engines have no complex numbers and no Fourier transforms. Images are (n, 2, H, W), real and
imaginary part; inside, a complex (..., rows, columns) is real with the parts side by side, (..., rows,
2 columns), and a complex matrix E is [[Re E, Im E], [-Im E, Re E]], whose transpose stands for E^H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PhaseEncodeNormal(nn.Module):
    """A^H A where lines are skipped along the columns alone.

    Along the rows, sampled in full, the Fourier transform and its inverse cancel.
    """

    inputs = ("maps", "encoding")

    def forward(self, x: Tensor, maps: Tensor, encoding: Tensor) -> Tensor:
        """Return A^H A x from maps (n, coil, 2, H, W) and encoding (n, 2, W, line).

        The encoding holds the columns of the Fourier matrix that were sampled.
        """
        matrix = _real_matrix(encoding)
        coil_images = _coil_images(x, maps)
        # One product a slice, with the coils' rows one below the other.
        kspace = coil_images.flatten(1, 2) @ matrix
        back = (kspace @ matrix.transpose(1, 2)).reshape(coil_images.shape)
        return _combine(back, maps)


class BothDirectionsNormal(nn.Module):
    """A^H A for any mask on the grid of k-space."""

    inputs = ("maps", "encoding", "row_encoding", "mask")

    def forward(
        self, x: Tensor, maps: Tensor, encoding: Tensor, row_encoding: Tensor, mask: Tensor
    ) -> Tensor:
        """Return A^H A x; row_encoding is (n, 2, H, row_line) and mask (n, row_line, line), 0 or 1."""
        matrix, row_matrix = _real_matrix(encoding)[:, None], _real_matrix(row_encoding)[:, None]
        weights = mask.transpose(1, 2)[:, None]
        kspace = _transposed(_coil_images(x, maps) @ matrix) @ row_matrix
        kspace = kspace * torch.cat([weights, weights], dim=-1)
        back = _transposed(kspace @ row_matrix.transpose(2, 3)) @ matrix.transpose(2, 3)
        return _combine(back, maps)


Normal = PhaseEncodeNormal | BothDirectionsNormal


class GuidedUpdate(nn.Module):
    """x + step_size (s - data_weight g |s| / |g|) + noise_scale z.

    g = A^H A x - A^H y; norms are per slice.
    """

    inputs = ("x", "step_size", "noise_scale", "data_weight", "z", "backprojection")

    def __init__(self, normal: Normal):
        super().__init__()
        self.normal = normal

    def forward(
        self,
        score: Tensor,
        x: Tensor,
        step_size: Tensor,
        noise_scale: Tensor,
        data_weight: Tensor,
        z: Tensor,
        backprojection: Tensor,
        operator: tuple[Tensor, ...],
    ) -> Tensor:
        """Return the next x (n, 2, H, W); numbers are (n,), z and the backprojection A^H y are like x.

        ``operator`` is what ``normal`` takes beside an image.
        """
        g = self.normal(x, *operator) - backprojection
        score_norm, g_norm = _inner(score, score).sqrt(), _inner(g, g).sqrt()
        pull = torch.where(g_norm > 0, _per_slice(data_weight) * score_norm / g_norm.clamp_min(1e-30), 0.0)
        following: Tensor = x + _per_slice(step_size) * (score - pull * g) + _per_slice(noise_scale) * z
        return following


class ProximalUpdate(nn.Module):
    """u + renoise (x - x0) / sigma + noise_scale z, with x0 = x + sigma^2 s.

    u = argmin |A u - y|^2 + gamma |u - x0|^2 after ``n_cg`` conjugate-gradient steps from x0.
    """

    inputs = ("x", "sigma", "gamma", "renoise", "noise_scale", "z", "backprojection")

    def __init__(self, normal: Normal, n_cg: int):
        super().__init__()
        self.normal = normal
        self.n_cg = n_cg

    def forward(
        self,
        score: Tensor,
        x: Tensor,
        sigma: Tensor,
        gamma: Tensor,
        renoise: Tensor,
        noise_scale: Tensor,
        z: Tensor,
        backprojection: Tensor,
        operator: tuple[Tensor, ...],
    ) -> Tensor:
        """Return the next x (n, 2, H, W); numbers are (n,), z and the backprojection A^H y are like x.

        ``operator`` is what ``normal`` takes beside an image.
        """
        sigma, gamma = _per_slice(sigma), _per_slice(gamma)
        u = x + sigma.square() * score
        residual = backprojection - self.normal(u, *operator)
        direction, energy = residual, _inner(residual, residual)
        for step in range(self.n_cg):
            product = self.normal(direction, *operator) + gamma * direction
            length = _ratio(energy, _inner(direction, product))
            u = u + length * direction
            if step + 1 < self.n_cg:
                residual = residual - length * product
                previous, energy = energy, _inner(residual, residual)
                direction = residual + _ratio(energy, previous) * direction
        # (x - x0) / sigma is -sigma s.
        following: Tensor = u - _per_slice(renoise) * sigma * score + _per_slice(noise_scale) * z
        return following


def _per_slice(numbers: Tensor) -> Tensor:
    return numbers[:, None, None, None]


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2, 3), keepdim=True)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Return above / below; 0 where a slice has converged, so that it stays where it is."""
    return torch.where(below > 0, above / torch.where(below > 0, below, 1.0), 0.0)


def _real_matrix(matrix: Tensor) -> Tensor:
    real, imag = matrix[:, 0], matrix[:, 1]
    return torch.cat([torch.cat([real, imag], dim=-1), torch.cat([-imag, real], dim=-1)], dim=-2)


def _parts(packed: Tensor) -> tuple[Tensor, Tensor]:
    parts = packed.reshape(*packed.shape[:-1], 2, -1)
    return parts[..., 0, :], parts[..., 1, :]


def _transposed(packed: Tensor) -> Tensor:
    real, imag = _parts(packed)
    return torch.cat([real.transpose(-2, -1), imag.transpose(-2, -1)], dim=-1)


def _coil_images(x: Tensor, maps: Tensor) -> Tensor:
    map_real, map_imag = maps[:, :, 0], maps[:, :, 1]
    real, imag = x[:, None, 0], x[:, None, 1]
    return torch.cat([map_real * real - map_imag * imag, map_real * imag + map_imag * real], dim=-1)


def _combine(coil_images: Tensor, maps: Tensor) -> Tensor:
    map_real, map_imag = maps[:, :, 0], maps[:, :, 1]
    real, imag = _parts(coil_images)
    return torch.stack(
        [(map_real * real + map_imag * imag).sum(dim=1), (map_real * imag - map_imag * real).sum(dim=1)],
        dim=1,
    )
