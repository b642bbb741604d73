import numpy as np
import pytest

from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.sense import Sense, encoding_matrices

SHAPES = [(), (3,)]
GRIDS = [(8, 12), (7, 9), (6, 5)]


def random_complex(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def make_mask(
    rng: np.random.Generator, batch: tuple[int, ...], grid: tuple[int, int], kind: str
) -> np.ndarray:
    shape = {"columns": (1, grid[1]), "rows": (grid[0], 1), "both": grid}[kind]
    mask = rng.random((*batch, *shape)) < 0.5
    mask[..., 0, 0] = True
    return mask


@pytest.mark.parametrize("batch", SHAPES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", ["columns", "rows", "both"])
class TestSense:
    def make(
        self, batch: tuple[int, ...], grid: tuple[int, int], kind: str
    ) -> tuple[Sense, np.random.Generator]:
        rng = np.random.default_rng(0)
        maps = random_complex(rng, (*batch, 4, *grid))
        return Sense(maps, make_mask(rng, batch, grid, kind)), rng

    def test_forward_is_the_masked_transform_of_the_coil_images(self, batch, grid, kind):
        sense, rng = self.make(batch, grid, kind)
        x = random_complex(rng, (*batch, *grid))
        expected = centred_fft(sense.maps * x[..., None, :, :]) * sense.mask[..., None, :, :]
        np.testing.assert_allclose(sense.forward(x), expected, atol=1e-5)

    def test_adjoint(self, batch, grid, kind):
        sense, rng = self.make(batch, grid, kind)
        x, y = random_complex(rng, (*batch, *grid)), random_complex(rng, sense.maps.shape)
        forward, adjoint = sense.forward(x), sense.adjoint(y)
        assert forward.shape == y.shape
        assert adjoint.shape == x.shape
        np.testing.assert_allclose(np.vdot(forward, y), np.vdot(x, adjoint), rtol=1e-4)

    def test_normal_is_the_adjoint_of_the_forward(self, batch, grid, kind):
        sense, rng = self.make(batch, grid, kind)
        x = random_complex(rng, (*batch, *grid))
        expected = sense.adjoint(sense.forward(x))
        out = np.empty_like(x)
        assert sense.normal(x, out=out) is out
        np.testing.assert_allclose(out, expected, atol=2e-5)
        assert out.dtype == np.complex64


@pytest.mark.parametrize("batch", SHAPES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", ["columns", "rows", "both"])
class TestSets:
    def make(
        self, batch: tuple[int, ...], grid: tuple[int, int], kind: str
    ) -> tuple[Sense, np.random.Generator]:
        rng = np.random.default_rng(3)
        maps = random_complex(rng, (*batch, 2, 4, *grid))
        return Sense(maps, make_mask(rng, batch, grid, kind)), rng

    def test_forward_is_the_sum_over_the_sets(self, batch, grid, kind):
        sense, rng = self.make(batch, grid, kind)
        x = random_complex(rng, (*batch, 2, *grid))
        sets = [np.ascontiguousarray(sense.maps[..., i, :, :, :]) for i in range(2)]
        expected = sum(Sense(maps, sense.mask).forward(x[..., i, :, :]) for i, maps in enumerate(sets))
        np.testing.assert_allclose(sense.forward(x), expected, atol=1e-5)

    def test_adjoint_returns_an_image_for_each_set(self, batch, grid, kind):
        sense, rng = self.make(batch, grid, kind)
        x, y = random_complex(rng, (*batch, 2, *grid)), random_complex(rng, (*batch, 4, *grid))
        forward, adjoint = sense.forward(x), sense.adjoint(y)
        assert forward.shape == y.shape
        assert adjoint.shape == x.shape
        np.testing.assert_allclose(np.vdot(forward, y), np.vdot(x, adjoint), rtol=1e-4)

    def test_normal_is_the_adjoint_of_the_forward(self, batch, grid, kind):
        sense, rng = self.make(batch, grid, kind)
        x = random_complex(rng, (*batch, 2, *grid))
        expected = sense.adjoint(sense.forward(x))
        out = np.empty_like(x)
        assert sense.normal(x, out=out) is out
        np.testing.assert_allclose(out, expected, atol=5e-5)


def test_slices_do_not_influence_each_other():
    rng = np.random.default_rng(1)
    maps, x = random_complex(rng, (3, 4, 8, 10)), random_complex(rng, (3, 8, 10))
    mask = make_mask(rng, (3,), (8, 10), "columns")
    together = Sense(maps, mask).normal(x)
    for i in range(3):
        np.testing.assert_array_equal(Sense(maps[i], mask[i]).normal(x[i]), together[i])


@pytest.mark.parametrize("mask_shape", [(10,), (2, 10), (1, 9), (8, 9), (1, 1, 10)])
def test_a_mask_that_does_not_fit_is_refused_with_both_shapes(mask_shape):
    maps = np.ones((4, 8, 10), dtype=np.complex64)
    with pytest.raises(ValueError, match=r"Sense: mask has shape .* expected"):
        Sense(maps, np.ones(mask_shape, dtype=bool))


def test_an_image_of_another_size_is_refused_with_both_shapes():
    sense = Sense(np.ones((4, 8, 10), dtype=np.complex64), np.ones((1, 10), dtype=bool))
    with pytest.raises(ValueError, match=r"image has shape \(8, 9\), expected \(8, 10\)"):
        sense.normal(np.zeros((8, 9), dtype=np.complex64))
    with pytest.raises(ValueError, match=r"k-space has shape"):
        sense.adjoint(np.zeros((8, 10), dtype=np.complex64))


@pytest.mark.parametrize("grid", GRIDS)
def test_the_encoding_is_the_fourier_transform_of_the_sampled_lines(grid):
    rng = np.random.default_rng(2)
    x = random_complex(rng, (2, *grid))
    lines = rng.random((2, grid[1])) < 0.5
    lines[:, 0], lines[0, 1], lines[1, 1] = True, True, False  # not the same number in both
    encoding = encoding_matrices(lines)
    assert encoding.shape == (2, grid[1], lines.sum(axis=1).max())
    for i in range(2):
        n_lines = lines[i].sum()
        kspace = centred_fft(x[i], axes=(-1,))[:, lines[i]]
        np.testing.assert_allclose((x[i] @ encoding[i])[:, :n_lines], kspace, atol=2e-6)
        assert not encoding[i][:, n_lines:].any()
