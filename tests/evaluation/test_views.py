"""The cuts of a picture: which slice, and from which side the patient is seen."""

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.evaluation.views import volume_views
from unet_bundle.phantom import phantom_case


def test_cuts_show_the_patient_from_the_same_side_whatever_the_order_of_the_file() -> None:
    image, label, affine = phantom_case(0, 1)
    original = nib.Nifti1Image(image, affine)
    expected = volume_views(image, label, None, [1, 2, 3], affine)
    for codes in ("RAS", "LPI", "SAL", "PIR"):
        turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
        turned = original.as_reoriented(turn)
        views = volume_views(np.asarray(turned.dataobj), nib.apply_orientation(label, turn), None, [1], turned.affine)
        for view, first in zip(views, expected, strict=True):
            assert view.pixel == pytest.approx(first.pixel)
            assert view.image.shape == first.image.shape


def test_patients_right_and_front_are_where_a_radiologist_expects_them() -> None:
    label = np.zeros((9, 9, 9), np.uint8)
    label[7, 7, 7] = 1  # right, anterior, superior of the middle
    axial, coronal, sagittal = volume_views(label, label, None, [1], np.eye(4))
    assert np.argwhere(axial.image).tolist() == [[7, 1]]  # rows from the bottom: front on top, right on the left
    assert np.argwhere(coronal.image).tolist() == [[7, 1]]
    assert np.argwhere(sagittal.image).tolist() == [[7, 1]]  # front on the left


def test_the_cut_goes_through_the_slice_that_shows_all_structures() -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    label[2:18, 2:18, 2:8] = 1
    label[9:12, 9:12, 7:10] = 2
    axial = volume_views(np.zeros(label.shape), label, None, [1, 2], None)[0]
    assert axial.truth is not None
    assert set(np.unique(axial.truth)) == {0, 1, 2}
