"""What `inspect_dicom` says of series whose truth is known."""

import numpy as np
import pytest

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.inspection import inspect_dicom, plane_of
from unet_bundle.io.dicom.study import read_study


def test_a_good_series(write, tmp_path):
    write("a", orientation="sagittal", modality="MR", series=7)
    (volume,) = inspect_dicom(tmp_path).volumes
    assert (volume.modality, volume.series_number, volume.files) == ("MR", 7, 8)
    assert volume.size == (12, 10, 8)
    np.testing.assert_allclose(volume.spacing, (0.8, 0.9, 2.0))
    assert volume.plane == "sagittal"
    assert (volume.problems, volume.refusal, volume.description) == ((), None, None)
    assert volume.uid_ending == "43.8.498.0.7.2"[-12:]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"lean": (0.0, np.tan(np.radians(12)))}, "has a gantry tilt of 12.0 degrees"),
        ({"skip": (3, 4)}, "lacks 2 slices at 16.0, 18.0 mm along the normal"),
        ({"depths": [0, 2, 4.5, 6, 8, 10, 12, 14]}, "has slice distances from 1.5 to 2.5 mm"),
    ],
)
def test_a_problem_is_named_and_the_series_refused(write, options, problem):
    (volume,) = inspect_dicom(write(**options).folder).volumes
    assert len(volume.problems) == 1
    assert volume.problems[0].startswith(problem)
    assert problem in volume.refusal


def test_tilt_and_gaps_are_both_named(write):
    (volume,) = inspect_dicom(write(lean=(0.0, 0.3), skip=(3,)).folder).volumes
    assert [problem.split(":")[0] for problem in volume.problems] == [
        "lacks 1 slice at 16.0 mm along the normal",
        "has a gantry tilt of 16.7 degrees",
    ]


@pytest.mark.parametrize(
    ("units", "shown"), [("BQML", "BQML"), ("CNTS", "CNTS"), ("", "none"), ("Planted^Name", "other")]
)
def test_a_pet_says_in_what_units_its_voxels_are(write, units, shown):
    series = write(modality="PT", edit=lambda _, dataset: setattr(dataset, "Units", units))
    (volume,) = inspect_dicom(series.folder).volumes
    assert (volume.units, volume.refusal) == (shown, None)


def test_copies_are_counted(write):
    series = write()
    (series.folder / "copy.dcm").write_bytes(series.files[0].read_bytes())
    (volume,) = inspect_dicom(series.folder).volumes
    assert volume.problems == ("1 file of its series has the SOPInstanceUID of another",)
    assert volume.refusal is None


def test_several_volumes_and_what_is_left_out(write, synthetic, tmp_path):
    synthetic.write_multiframe(tmp_path / "enhanced", times=2)
    for path in (tmp_path / "enhanced" / "single").iterdir():
        path.unlink()

    def localizer(_index, dataset):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    write("localizer", series=3, edit=localizer)
    found = inspect_dicom(tmp_path)
    assert [volume.choice.split(" (")[0] for volume in found.volumes] == ["one of 2 volumes in its series"] * 2
    assert [volume.choice.split("--dicom::")[2] for volume in found.volumes] == ["volume 1", "volume 2"]
    assert found.readable == []
    assert dict(found.left_out) == {"a localizer, not a scan to segment": 8}


def test_descriptions_only_when_asked_for(write, synthetic):
    folder = write().folder
    assert "PLANTED" not in repr(inspect_dicom(folder))
    assert synthetic.PLANTED[0] in repr(inspect_dicom(folder, show_descriptions=True))


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [
        ("axial", "axial"),
        ("coronal", "coronal"),
        ("prone", "axial"),
        ("negated cosines", "axial"),
        ("oblique", "oblique axial (26 degrees)"),
    ],
)
def test_planes_have_anatomical_names(synthetic, orientation, plane):
    first, second = np.array(synthetic.ORIENTATIONS[orientation], dtype=float)
    assert plane_of(np.cross(first, second)) == plane


@pytest.mark.parametrize("number", [1, 2])
def test_a_volume_is_chosen_as_it_is_said(synthetic, write, tmp_path, number):
    """What is said of a study of several series, given to the reading of a study: that volume and no other."""
    ending = "498.0.0.2"  # of the other, too

    def alike(_index, dataset):
        dataset.SeriesInstanceUID = f"1.2.43.8.{ending}"

    write("other", series=5, seed=3, edit=alike)
    synthetic.write_multiframe(tmp_path / "enhanced", times=2)
    for path in (tmp_path / "enhanced" / "single").iterdir():
        path.unlink()
    several = [volume for volume in inspect_dicom(tmp_path).volumes if volume.choice]
    assert sum("holds 2 volumes" in reason for reason in read_study(tmp_path, {}).reasons()) == 1
    uid, chosen = several[number - 1].choice.split("--dicom::")[1:]
    options = {"series_uid": uid.split()[1].strip("\"'"), "volume": int(chosen.split()[1])}
    (series,) = read_study(tmp_path, options).fitting
    assert series.uid == f"1.2.826.0.1.3680043.8.{ending}"


def test_a_damaged_header_holds_up_all_and_is_named_by_its_number(write, tmp_path):
    series = write("PLANTED^NAME")
    path = sorted(series.files)[2]
    path.write_bytes(path.read_bytes()[:300])
    found = inspect_dicom(tmp_path)
    assert [message.split(" (")[0] for message in found.damaged] == ["DICOM file 3 of 8"]
    assert len(found.volumes) == 1
    assert found.readable == []
    assert "PLANTED" not in repr(found)
    with pytest.raises(InputError, match="DICOM file 3 of 8"):
        read_study(tmp_path, {})
    shown = inspect_dicom(tmp_path, show_paths=True)
    assert shown.paths[2] == path.relative_to(tmp_path).as_posix()
    assert len(shown.volumes[0].paths) == 7
    for each in series.files:
        each.write_bytes(b"")
    with pytest.raises(InputError, match="DICOM file 1 of 8"):
        inspect_dicom(tmp_path)
