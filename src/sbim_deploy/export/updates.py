"""The steps of a plan as PyTorch modules that take the score: what the fused graphs add to the network.

Inference engines have no complex numbers and no Fourier transforms. Images are (n, 2, H, W), real and
imaginary part; inside, a complex (..., rows, columns) is real with the parts side by side, (..., rows,
2 columns), and a complex matrix E is [[Re E, Im E], [-Im E, Re E]], whose transpose stands for E^H.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sbim_deploy.samplers.conjugate_gradient import CONVERGED

Normal = Callable[[Tensor], Tensor]
"""x -> A^H A x, (n, 2, H, W)."""


class PhaseEncodeNormal:
    """A^H A where lines are skipped along the columns alone.

    Along the rows, sampled in full, the Fourier transform and its inverse cancel.
    """

    inputs = ("maps", "encoding")

    def __call__(self, together: Tensor, maps: Tensor, encoding: Tensor) -> Normal:
        """Return A^H A for maps (n, coil, 2, H, W) and encoding (n, 2, W, line).

        The encoding holds the columns of the Fourier matrix that were sampled; ``together`` (n, n) has ones
        where entries are of the same slice, whose k-space is their sum.
        """
        coils, matrix = _Coils(maps), _real_matrix(encoding)

        def normal(x: Tensor) -> Tensor:
            coil_images = coils.split(x)
            # One product a slice, with the coils' rows one below the other.
            kspace = _sum_over_sets(together, coil_images.flatten(1, 2) @ matrix)
            return coils.combine((kspace @ matrix.transpose(1, 2)).reshape(coil_images.shape))

        return normal


class BothDirectionsNormal:
    """A^H A for any mask on the grid of k-space."""

    inputs = ("maps", "encoding", "row_encoding", "mask")

    def __call__(
        self, together: Tensor, maps: Tensor, encoding: Tensor, row_encoding: Tensor, mask: Tensor
    ) -> Normal:
        """Return A^H A; row_encoding is (n, 2, H, row_line) and mask (n, row_line, line), 0 or 1."""
        coils = _Coils(maps)
        matrix, row_matrix = _real_matrix(encoding)[:, None], _real_matrix(row_encoding)[:, None]
        weights = mask.transpose(1, 2)[:, None]
        weights = torch.cat([weights, weights], dim=-1)

        def normal(x: Tensor) -> Tensor:
            lines = _transposed(coils.split(x) @ matrix) @ row_matrix
            kspace = _sum_over_sets(together, lines) * weights
            return coils.combine(_transposed(kspace @ row_matrix.transpose(2, 3)) @ matrix.transpose(2, 3))

        return normal


Operator = PhaseEncodeNormal | BothDirectionsNormal


class GuidedUpdate(nn.Module):
    """x + step_size (s - w g) + noise_scale z, with w = data_weight |s| / |g| + likelihood_gain.

    g = A^H A x - A^H y; norms are per slice.
    """

    inputs = (
        "x",
        "step_size",
        "noise_scale",
        "data_weight",
        "likelihood_gain",
        "z",
        "backprojection",
        "map_set",
    )

    def __init__(self, operator: Operator):
        super().__init__()
        self.operator = operator

    def forward(
        self,
        score: Tensor,
        x: Tensor,
        step_size: Tensor,
        noise_scale: Tensor,
        data_weight: Tensor,
        likelihood_gain: Tensor,
        z: Tensor,
        backprojection: Tensor,
        map_set: Tensor,
        operator_inputs: tuple[Tensor, ...],
    ) -> Tensor:
        """Return the next x (n, 2, H, W); numbers are (n,), z and the backprojection A^H y are like x.

        ``map_set`` (n,) is 0 for the first image of a slice, 1 for that of its second set of maps, which
        follows at once. ``operator_inputs`` are those of the update's operator.
        """
        together = _of_one_slice(map_set)
        g = self.operator(together, *operator_inputs)(x) - backprojection
        score_norm, g_norm = _inner(together, score, score).sqrt(), _inner(together, g, g).sqrt()
        pull = torch.where(g_norm > 0, _per_slice(data_weight) * score_norm / g_norm.clamp_min(1e-30), 0.0)
        weight = pull + _per_slice(likelihood_gain)
        following: Tensor = x + _per_slice(step_size) * (score - weight * g) + _per_slice(noise_scale) * z
        return following


class ProximalUpdate(nn.Module):
    """u + renoise (x - x0) / sigma + noise_scale z, with x0 = x + sigma^2 s.

    u = argmin |A u - y|^2 + gamma |u - x0|^2 after ``n_cg`` conjugate-gradient steps from x0.
    """

    inputs = ("x", "sigma", "gamma", "renoise", "noise_scale", "z", "backprojection", "map_set")

    def __init__(self, operator: Operator, n_cg: int):
        super().__init__()
        self.operator = operator
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
        map_set: Tensor,
        operator_inputs: tuple[Tensor, ...],
    ) -> Tensor:
        """Return the next x (n, 2, H, W); numbers are (n,), z and the backprojection A^H y are like x.

        ``map_set`` (n,) is 0 for the first image of a slice, 1 for that of its second set of maps, which
        follows at once. ``operator_inputs`` are those of the update's operator.
        """
        together = _of_one_slice(map_set)
        normal = self.operator(together, *operator_inputs)
        sigma, gamma = _per_slice(sigma), _per_slice(gamma)
        u = x + sigma.square() * score
        residual = backprojection - normal(u)
        direction, energy = residual, _inner(together, residual, residual)
        for step in range(self.n_cg):
            product = normal(direction) + gamma * direction
            length = _ratio(energy, _inner(together, direction, product))
            u = u + length * direction
            if step + 1 < self.n_cg:
                residual = residual - length * product
                previous, energy = energy, _inner(together, residual, residual)
                direction = residual + _ratio(energy, previous) * direction
        # (x - x0) / sigma is -sigma s.
        following: Tensor = u - _per_slice(renoise) * sigma * score + _per_slice(noise_scale) * z
        return following


def make_updates(n_cg: int) -> dict[str, GuidedUpdate | ProximalUpdate]:
    """Return the updates by the names that their graphs end with."""
    return {
        "guided": GuidedUpdate(PhaseEncodeNormal()),
        "proximal": ProximalUpdate(PhaseEncodeNormal(), n_cg),
        "guided-2d": GuidedUpdate(BothDirectionsNormal()),
        "proximal-2d": ProximalUpdate(BothDirectionsNormal(), n_cg),
    }


def _per_slice(numbers: Tensor) -> Tensor:
    return numbers[:, None, None, None]


def _of_one_slice(map_set: Tensor) -> Tensor:
    """Return (n, n): 1 where two entries are images of the same slice, and 0 elsewhere.

    Entries of requests that a server puts together come one after the other, so places are told apart and
    numbers of slices are not needed.
    """
    first = torch.arange(map_set.shape[0], dtype=map_set.dtype) - map_set
    return (first[:, None] == first[None, :]).to(map_set.dtype)


def _sum_over_sets(together: Tensor, kspace: Tensor) -> Tensor:
    return (together @ kspace.flatten(1)).reshape(kspace.shape)


def _inner(together: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return _per_slice(together @ (a * b).sum(dim=(1, 2, 3)))


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Return above / below; 0 where a slice has converged, so that it stays where it is."""
    has_converged = below <= CONVERGED
    return torch.where(has_converged, 0.0, above / torch.where(has_converged, 1.0, below))


def _real_matrix(matrix: Tensor) -> Tensor:
    real, imag = matrix[:, 0], matrix[:, 1]
    return torch.cat([torch.cat([real, imag], dim=-1), torch.cat([-imag, real], dim=-1)], dim=-2)


def _parts(packed: Tensor) -> tuple[Tensor, Tensor]:
    parts = packed.reshape(*packed.shape[:-1], 2, -1)
    return parts[..., 0, :], parts[..., 1, :]


def _transposed(packed: Tensor) -> Tensor:
    real, imag = _parts(packed)
    return torch.cat([real.transpose(-2, -1), imag.transpose(-2, -1)], dim=-1)


class _Coils:
    """Coil maps S as two factors, so that few products of the coils' size are made."""

    def __init__(self, maps: Tensor):
        real, imag = maps[:, :, 0], maps[:, :, 1]
        self._of_real = torch.cat([real, imag], dim=-1)
        self._of_imag = torch.cat([-imag, real], dim=-1)

    def split(self, x: Tensor) -> Tensor:
        """Return S x, (n, coil, H, 2 W), of (n, 2, H, W)."""
        twice = torch.cat([x, x], dim=-1)
        return self._of_real * twice[:, 0:1] + self._of_imag * twice[:, 1:2]

    def combine(self, coil_images: Tensor) -> Tensor:
        """Return the sum of conj(S) times the coils' images, (n, 2, H, W)."""
        parts = (self._sum(self._of_real * coil_images), self._sum(self._of_imag * coil_images))
        return torch.stack([real + imag for real, imag in parts], dim=1)

    @staticmethod
    def _sum(coil_images: Tensor) -> tuple[Tensor, Tensor]:
        # A product with ones: ONNX Runtime sums along an axis more slowly than it multiplies.
        n, n_coils, rows, columns = coil_images.shape
        summed = coil_images.new_ones(1, 1, n_coils) @ coil_images.flatten(2)
        return _parts(summed.reshape(n, rows, columns))
