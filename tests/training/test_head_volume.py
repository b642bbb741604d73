from importlib.resources import files

import numpy as np
import pytest

pytest.importorskip("nilearn", reason="nilearn is not installed")

from sbim_deploy.training import head_volume
from sbim_deploy.training.tissues import load_tissues


def test_signals_are_those_of_the_tissues_at_known_places():
    # In MNI space, mm: between the ventricles' bodies, deep white matter, above the head.
    places = np.array([(-6, -10, 20), (-27, -20, 28), (0, -17, 140)], np.float32)
    fluid, white, air = head_volume._slice(load_tissues(), places.T[:, None])[0]
    assert fluid < 0.6 * white
    assert np.isclose(white, head_volume.WHITE, atol=0.12)
    assert air == 0


def test_the_head_that_ships_is_upright_and_has_the_size_that_is_said():
    with np.load(files("sbim_deploy").joinpath("assets/head_volume.npz")) as stored:
        head = stored["magnitude"]
    assert head.shape == (head_volume.SIZE,) * 3
    assert head.dtype == np.uint8
    assert head.max() == 255
    rows, columns = ((head[60] > 30).any(axis=axis).sum() for axis in (1, 0))
    assert rows > columns
