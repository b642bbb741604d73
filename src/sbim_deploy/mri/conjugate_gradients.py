"""Conjugate gradients for the normal equations of operators on arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Complex = TypeVar("Complex", bound=np.complexfloating[Any, Any])


def conjugate_gradients(
    normal: Callable[[NDArray[Complex]], NDArray[Complex]],
    residual: NDArray[Complex],
    goal: np.floating[Any],
    max_iterations: int,
) -> NDArray[Complex]:
    """Return x with ``normal``(x) = ``residual``, from x = 0 (Hestenes and Stiefel 1952).

    It ends after ``max_iterations``, or when the squared norm of what is left is at most ``goal``, which
    keeps an easy problem from going on until that is no normal number any more.

    Args:
        normal: a Hermitian positive definite operator; what it returns may be changed.
        residual: of any shape, complex; overwritten by what is left.
        goal: a squared norm, at least 0.
        max_iterations: applications of ``normal``.
    """
    solution = np.zeros_like(residual)
    direction = residual.copy()
    energy = np.vdot(residual, residual).real
    for _ in range(max_iterations):
        if energy <= goal:
            break
        applied = normal(direction)
        length = energy / np.vdot(direction, applied).real
        solution += length * direction
        residual -= length * applied
        previous, energy = energy, np.vdot(residual, residual).real
        direction *= energy / previous
        direction += residual
    return solution
