import nibabel
import numpy as np
import pytest

from label_heads import ball_head, write_labels
from sbim_deploy.errors import InputError
from sbim_deploy.training.label_maps import BRAIN_CENTRE, ZONE, read_head, read_lesion, volume_files


@pytest.fixture
def path(tmp_path):
    return write_labels(tmp_path / "head.nii.gz", ball_head())


def zone_at(head, point):
    place = np.round((np.asarray(point) - head.origin) / head.spacing).astype(int)
    return head.zones[tuple(place)]


def test_the_middle_of_the_brain_lies_on_the_templates(path):
    head = read_head(path)
    assert zone_at(head, BRAIN_CENTRE) == ZONE["white"]
    assert zone_at(head, np.add(BRAIN_CENTRE, [50, 0, 0])) == ZONE["cortex"]
    assert zone_at(head, np.add(BRAIN_CENTRE, [0, 63, 0])) == ZONE["fluid"]
    assert zone_at(head, np.add(BRAIN_CENTRE, [0, 0, 72])) == ZONE["bone"]
    np.testing.assert_allclose(head.brain_extent, 117, atol=3)


def test_depths_count_from_the_skin_and_from_the_inner_table(path):
    head = read_head(path)
    points = np.asarray(BRAIN_CENTRE + np.array([[0, 0, 0], [78, 0, 0], [60, 0, 0]]), np.float32)
    points = points.T[:, :, None]
    where = np.ones(points.shape[1:], bool)
    centre, scalp, fluid = head.below_skin.sample(points, where)[:, 0]
    assert centre > scalp
    assert scalp == pytest.approx(90 - 78, abs=2.5)
    assert fluid == pytest.approx(90 - 60, abs=2.5)
    inner = head.from_inner_table.sample(points, where)[:, 0]
    assert inner[1] == pytest.approx(78 - 66, abs=2.5)
    assert inner[2] == pytest.approx(60 - 66, abs=2.5)


def test_a_headrest_is_not_of_the_head(tmp_path, path):
    labels = ball_head()
    labels[:2, :2, :2] = 24
    other = read_head(write_labels(tmp_path / "rest.nii.gz", labels))
    np.testing.assert_array_equal(other.zones, read_head(path).zones)


def test_the_order_of_axes_in_the_file_does_not_matter(tmp_path):
    labels = ball_head()
    labels[40:44, 20:24, 30:34] = 514  # an asymmetric head
    straight = read_head(write_labels(tmp_path / "a.nii.gz", labels))
    affine = np.diag([-3.0, 3.0, 3.0, 1.0])[:, [2, 1, 0, 3]]
    turned = np.ascontiguousarray(labels[::-1].transpose(2, 1, 0))
    nibabel.save(nibabel.Nifti1Image(turned, affine), tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(read_head(tmp_path / "b.nii.gz").zones, straight.zones)


def test_parcels_of_the_cortex_are_cortex(tmp_path, path):
    labels = ball_head()
    labels[labels == 3] = 1012
    other = read_head(write_labels(tmp_path / "aparc.nii.gz", labels))
    np.testing.assert_array_equal(other.zones, read_head(path).zones)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda labels: np.where(labels == 2, 6000, labels),
            "values 6000, which are no labels of FreeSurfer",
        ),
        (lambda labels: labels + 0.5, "0.5"),
        (lambda labels: np.where(np.isin(labels, (2, 3)), 0, labels), "0 voxels are brain"),
        (lambda labels: np.zeros_like(labels), "0 voxels are brain"),
    ],
)
def test_what_is_no_head_is_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read_head(write_labels(tmp_path / "bad.nii.gz", change(ball_head().astype(np.float32))))


def test_a_lesion_is_a_mask_of_one_millimetre(tmp_path):
    mask = np.zeros((20, 20, 20), np.float32)
    mask[5:9, 5:9, 5:9] = 1
    assert read_lesion(write_labels(tmp_path / "mask.nii.gz", mask, 1.0)).sum() == 64
    with pytest.raises(InputError, match="expected 1 mm"):
        read_lesion(write_labels(tmp_path / "coarse.nii.gz", mask, 2.0))
    with pytest.raises(InputError, match="holds 3 values"):
        read_lesion(write_labels(tmp_path / "graded.nii.gz", mask + np.eye(20, dtype=np.float32), 1.0))


def test_a_folder_without_volumes_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder; expected one with label maps"):
        volume_files(tmp_path / "nowhere", "label maps")
    with pytest.raises(InputError, match="expected label maps"):
        volume_files(tmp_path, "label maps")
