from importlib import resources

import numpy as np
import pytest
from PIL import Image

from label_heads import ball_head, write_labels
from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.training import brains, held_out, samples, tissues
from sbim_deploy.training.brains import (
    HELD_OUT_STREAM,
    TRAINING_STREAM,
    Anatomies,
    acquire,
    brain_slice,
    held_out_slice,
    random_phase,
    random_shading,
    training_slice,
)
from sbim_deploy.training.fields import Grid


def test_a_seed_gives_one_slice(tissues):
    first = training_slice(tissues, 5, 64)
    np.testing.assert_array_equal(first, training_slice(tissues, 5, 64))
    assert np.abs(first - training_slice(tissues, 6, 64)).max() > 0.1


def test_a_slice_follows_from_the_generator_it_is_given(tissues):
    given = brain_slice(tissues, np.random.default_rng([TRAINING_STREAM, 5]), 64)
    np.testing.assert_array_equal(given, training_slice(tissues, 5, 64))


def test_training_and_held_out_slices_never_share_a_seed():
    indices = [*range(300), 2**32 - 1, 2**32, 2**40, 2**64]
    training, held_out_seeds = (
        {tuple(np.random.SeedSequence([stream, index]).generate_state(4)) for index in indices}
        for stream in (TRAINING_STREAM, HELD_OUT_STREAM)
    )
    assert len(training) == len(held_out_seeds) == len(indices)
    assert not training & held_out_seeds


def test_training_and_held_out_slices_differ(tissues):
    assert np.abs(training_slice(tissues, 3, 64) - held_out_slice(tissues, 3, 64)).max() > 0.1


@pytest.mark.parametrize("size", [64, 96, 100, 256, (96, 160), (192, 128)])
def test_slices_are_complex_of_unit_scale_in_any_size(tissues, size):
    image = training_slice(tissues, 1, size)
    assert image.dtype == np.complex64
    assert image.shape == (size if isinstance(size, tuple) else (size, size))
    assert np.percentile(np.abs(image), 99) == pytest.approx(1, abs=1e-5)


def test_the_phase_is_smooth_where_there_is_signal_and_not_constant(tissues):
    for index in range(6):
        image = training_slice(tissues, index, 128)
        signal = np.abs(image) > 0.3
        both = signal[:, 1:] & signal[:, :-1]
        step = np.abs(np.angle(image[:, 1:] * image[:, :-1].conj())[both])
        assert np.percentile(step, 98) < 0.4
        assert np.std(np.angle(image[signal] / image[signal].sum())) > 0.02


def test_slices_are_no_finer_than_their_pixels_and_sometimes_coarser(tissues):
    outer = []
    for index in range(12):
        energy = np.abs(centred_fft(training_slice(tissues, index, 64))) ** 2
        outer.append((energy[:4].sum() + energy[-4:].sum()) / energy.sum())
    assert min(outer) < 1e-9
    assert max(outer) > 1e-6


@pytest.mark.parametrize("size", [96, (128, 96), (96, 128)])
def test_the_head_lies_within_the_air(tissues, size):
    magnitude = np.abs(np.stack([training_slice(tissues, index, size) for index in range(8)]))
    assert 0.12 < np.mean(magnitude > 0.1) < 0.75
    assert magnitude[:, :4, :4].max() < 0.05


def test_every_slice_has_much_of_a_head(tissues):
    covered = [np.mean(np.abs(held_out_slice(tissues, index, 64)) > 0.05) for index in range(32)]
    assert min(covered) > 0.08


@pytest.mark.parametrize("index", range(8))
def test_a_finer_grid_shows_the_same_anatomy(tissues, index):
    coarse = np.abs(training_slice(tissues, index, 64))
    fine = np.abs(training_slice(tissues, index, 128))
    averaged = fine.reshape(64, 2, 64, 2).mean(axis=(1, 3))
    assert np.corrcoef(coarse.ravel(), averaged.ravel())[0, 1] > 0.95


def test_too_small_a_slice_is_refused(tissues):
    with pytest.raises(InputError, match="at least 16"):
        training_slice(tissues, 0, 8)


def test_without_nilearn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nilearn", None)
    with pytest.raises(BackendMissingError, match=r'pip install .*\[train\]"'):
        tissues.load_tissues.__wrapped__()


def test_the_shipped_slices_are_held_out_ones():
    asset = resources.files("sbim_deploy") / "assets" / "brain_slices.npz"
    with asset.open("rb") as file, np.load(file) as content:
        magnitude, scale = content["magnitude"], content["scale"]
    assert magnitude.shape == (len(held_out.INDICES), 256, 256)
    assert magnitude.dtype == np.uint16
    expected, quantum = held_out.quantised_slice(held_out.INDICES[3])
    assert scale[3] == pytest.approx(quantum, rel=1e-4)
    np.testing.assert_allclose(magnitude[3].astype(int), expected.astype(int), rtol=0, atol=1)


def test_quantisation_is_finer_than_a_four_thousandth():
    _, quantum = held_out.quantised_slice(0)
    assert 1 / held_out.N_QUANTA <= 1 / 4000
    assert quantum * held_out.N_QUANTA > 1


def test_the_shipped_slices_are_written_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(held_out, "INDICES", (0, 10))
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    assert [held_out.main([str(path)]) for path in paths] == [0, 0]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_command_names_what_it_expects(capsys):
    assert held_out.main([]) == InputError.exit_code
    assert "OUTPUT.npz" in capsys.readouterr().err


def test_a_page_shows_sixty_four_slices(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(samples, "SIZE", 32)
    assert samples.main([str(tmp_path / "page.png")]) == 0
    with Image.open(tmp_path / "page.png") as page:
        assert page.size == (256, 256)
        assert page.mode == "L"
    assert samples.main(["page.jpg"]) == InputError.exit_code
    assert "OUTPUT.png" in capsys.readouterr().err


def test_a_pool_holds_the_slices_in_order(tissues):
    drawn = brains.held_out_pool(3, 32)
    np.testing.assert_array_equal(drawn[2], held_out_slice(tissues, 2, 32))


def test_a_quarter_of_the_slices_stays_the_templates(tissues, tmp_path, monkeypatch):
    path = write_labels(tmp_path / "head.nii.gz", ball_head())
    chosen = []
    monkeypatch.setattr(brains, "head_slice", lambda anatomies, rng, size: chosen.append(anatomies))
    monkeypatch.setattr(brains, "brain_slice", lambda tissues, rng, size: chosen.append("template"))
    for index in range(400):
        brains.anatomy_slice(Anatomies((path,)), TRAINING_STREAM, index, 32)
    assert chosen.count("template") / 400 == pytest.approx(0.25, abs=0.07)


def test_slices_of_heads_are_a_function_of_their_index(tmp_path):
    heads = Anatomies((write_labels(tmp_path / "head.nii.gz", ball_head()),), template_share=0)
    first = brains.anatomy_slice(heads, TRAINING_STREAM, 1, 64)
    assert first.dtype == np.complex64
    assert np.percentile(np.abs(first), 99) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(first, brains.anatomy_slice(heads, TRAINING_STREAM, 1, 64))
    for stream, index in ((TRAINING_STREAM, 2), (brains.HELD_OUT_STREAM, 1)):
        assert np.abs(first - brains.anatomy_slice(heads, stream, index, 64)).max() > 0.1
    with pytest.raises(InputError, match="at least 16 x 16"):
        brains.anatomy_slice(heads, TRAINING_STREAM, 1, 8)


@pytest.mark.slow
def test_several_processes_draw_the_same_pool(tissues, monkeypatch):
    monkeypatch.setattr(brains, "MIN_SLICES_A_WORKER", 2)
    monkeypatch.setattr(brains.os, "cpu_count", lambda: 2)
    drawn = brains.training_pool(4, 32)
    expected = np.stack([training_slice(tissues, index, 32) for index in range(4)])
    np.testing.assert_allclose(drawn, expected, atol=1e-6)


GRID = Grid((192, 192), 1.25)
SHAPE = (128, 128)


@pytest.fixture
def box():
    image = np.zeros((192, 192), np.complex64)
    image[48:144, 48:144] = 1
    return image


def set_shares(monkeypatch, full=1.0, unfiltered=1.0, elliptic=0.0):
    monkeypatch.setattr(brains, "FULL_MATRIX_SHARE", full)
    monkeypatch.setattr(brains, "UNFILTERED_SHARE", unfiltered)
    monkeypatch.setattr(brains, "ELLIPTIC_SHARE", elliptic)


def test_an_unfiltered_edge_overshoots_as_gibbs_said(box, monkeypatch):
    set_shares(monkeypatch)
    image = np.abs(acquire(np.random.default_rng(0), box, SHAPE)) * 2 / 3
    inside = image / np.median(image[60:68, 60:68])
    assert inside.shape == SHAPE
    assert 1.03 < inside[64].max() < 1.2


def test_a_window_rings_less(box, monkeypatch):
    set_shares(monkeypatch)
    plain = acquire(np.random.default_rng(0), box, SHAPE)
    set_shares(monkeypatch, unfiltered=0.0)
    filtered = acquire(np.random.default_rng(0), box, SHAPE)
    overshoot = [np.abs(image[64]).max() / np.abs(image[64, 64]) for image in (plain, filtered)]
    assert overshoot[1] < overshoot[0]


def test_a_smaller_matrix_leaves_the_outer_lines_empty(box, monkeypatch):
    set_shares(monkeypatch, full=0.0)
    kspace = centred_fft(acquire(np.random.default_rng(0), box, SHAPE))
    energy = np.abs(kspace) ** 2
    assert energy[:2].sum() < 1e-9 * energy.sum()
    assert energy[64 - 40 : 64 + 40, 64 - 40 : 64 + 40].sum() > 0.95 * energy.sum()


def test_an_ellipse_leaves_the_corners_empty(box, monkeypatch):
    set_shares(monkeypatch, elliptic=1.0)
    noise = np.random.default_rng(1).standard_normal(box.shape).astype(np.complex64)
    energy = np.abs(centred_fft(acquire(np.random.default_rng(0), noise, SHAPE))) ** 2
    assert energy[:16, :16].max() < 1e-9 * energy.max()
    assert energy[:16, 60:68].max() > 1e-3 * energy.max()


def test_what_is_acquired_has_the_shape_asked_for():
    noise = np.random.default_rng(1).standard_normal((240, 192))
    assert acquire(np.random.default_rng(0), noise, (160, 128)).shape == (160, 128)


def test_shading_is_slow_and_ends_with_the_field_of_view():
    for seed in range(10):
        shading = random_shading(np.random.default_rng(seed), GRID)
        assert shading.min() >= 0
        assert shading[:2].max() < 0.1
        middle = np.log(shading[20:-20, 20:-20])
        assert np.abs(np.diff(middle, axis=0)).max() < 0.05
        assert 0.02 < middle.std() < 1


def test_phases_are_smooth_and_now_and_then_steep():
    down, across = np.meshgrid(GRID.rows, GRID.columns, indexing="ij")
    points = np.stack([np.zeros_like(down), across, -down])
    slopes = np.array(
        [
            np.abs(np.diff(random_phase(np.random.default_rng(seed), points, GRID), axis=0)).max()
            for seed in range(60)
        ]
    )
    assert slopes.max() < 0.6
    assert 0.1 < np.mean(slopes > 0.1) < 0.8
