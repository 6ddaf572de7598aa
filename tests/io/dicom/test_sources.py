"""Wherever the files of a series lie, it is the same series."""

import shutil
import warnings
import zipfile

import numpy as np
import pytest
import torch

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import LoadImaged
from unet_bundle.io.dicom import DicomSeriesReader
from unet_bundle.io.dicom.sources import MAX_ARCHIVE_BYTES, MAX_MEMBER_BYTES, find_sources


def read(path, **options):
    reader = DicomSeriesReader(**options)
    return reader.get_data(reader.read(path))


def zipped(series, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in series.files:
            archive.write(file, f"study/deep/{file.stem}")
        archive.writestr("study/report.txt", "text")
    return path


def test_folders_files_and_archives_give_the_same_volume(write, tmp_path):
    series = write("PLANTED^NAME/deep/er")
    (tmp_path / "PLANTED^NAME" / "DICOMDIR").write_bytes(bytes(128) + b"DICM, a list of files")
    (tmp_path / "PLANTED^NAME" / "notes.txt").write_text("text")
    bare = tmp_path / "bare"
    bare.mkdir()
    for number, file in enumerate(series.files):
        shutil.copy(file, bare / f"IM{number}")
    expected, meta = read(series.folder)
    for given in (
        tmp_path / "PLANTED^NAME",
        tmp_path / "PLANTED^NAME" / "DICOMDIR",
        [str(file) for file in series.files],
        bare,
        zipped(series, tmp_path / "series.zip"),
    ):
        assert DicomSeriesReader().verify_suffix(given)
        array, other = read(given)
        np.testing.assert_array_equal(array, expected)
        np.testing.assert_array_equal(other["affine"], meta["affine"])


def test_several_folders_are_channels_if_they_share_a_grid(write):
    first, second = write("a", seed=1), write("b", seed=2)
    other = write("c", seed=3, origin=(0, 0, 0))
    array, meta = read([first.folder, second.folder])
    np.testing.assert_array_equal(array, np.stack([first.voxels, second.voxels]).transpose(0, 3, 2, 1))
    assert meta["original_channel_dim"] == 0
    with pytest.raises(InputError, match=r"is not on the grid of CT series 0 .*corners up to"):
        read([first.folder, other.folder])


def test_the_loading_transform_of_every_config_reads_it(write, tmp_path):
    series = write("PLANTED^NAME", shape=(12, 10, 8))
    load = LoadImaged(keys="image", channels=1)
    for given in (series.folder, zipped(series, tmp_path / "PLANTED^NAME.zip")):
        image = load({"image": str(given)})["image"]
        assert image.shape == (1, 12, 10, 8)
        assert image.dtype == torch.float32
        np.testing.assert_array_equal(image[0].numpy(), series.voxels.transpose(2, 1, 0))
        assert image.meta["filename_or_obj"] == "1.2.826.0.1.3680043.8.498.0.0.2", "results are named after it"
    with pytest.raises(InputError, match=r"^the DICOM input has 1 channel, the model needs 2"):
        LoadImaged(keys="image", channels=2)({"image": str(series.folder)})


def test_no_other_reader_takes_what_is_refused(write):
    series = write(skip=(3,))
    with pytest.raises(InputError, match=r"lacks 1 slice at 16\.0 mm"):
        LoadImaged(keys="image")({"image": str(series.folder)})


def test_configs_pass_options_to_the_reader(write):
    series = write(skip=(3,))
    assert LoadImaged(keys="image", dicom={"on_gaps": "resample"})({"image": series.folder})["image"].shape[3] == 8
    with pytest.raises(InputError, match="the model needs MR"):
        LoadImaged(keys="image", dicom={"modality": "MR"})({"image": series.folder})
    with pytest.raises(ConfigError, match="'on_gap'"):
        LoadImaged(keys="image", dicom={"on_gap": "resample"})


def test_what_is_no_dicom_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_bytes(b"no archive")
    (tmp_path / "cut.dcm").write_bytes(b"")
    for given, words in (
        ("empty", "no DICOM file was found"),
        ("missing", "does not exist"),
        ("text.zip", "archive with the DICOM input is damaged or cut short"),
        ("cut.dcm", "damaged or cut short"),
    ):
        with pytest.raises(InputError, match=words):
            read(tmp_path / given)


def test_links_in_a_circle_end(write):
    series = write()
    (series.folder / "again").symlink_to(series.folder)
    assert read(series.folder)[0].shape == (12, 10, 8)


def test_no_message_names_a_patient(write, synthetic, caplog, tmp_path):
    """Every refusal and warning of series whose folder, files, name, id and birth date are planted."""
    name, number, born = synthetic.PLANTED

    def refusal(part, **options):
        folder = f"{part}/{name}/{born}"
        series = write(folder, **options)
        for index, path in enumerate(series.files):
            path.rename(path.with_name(f"{number}_{name}_{index}.dcm"))
        with pytest.raises(InputError) as refused:
            read(tmp_path / part / name)
        return str(refused.value)

    def cut(index, dataset):
        if index == 2:
            dataset.PixelData = dataset.PixelData[:50]

    def again(index, dataset):
        dataset.ImagePositionPatient[2] = str(2 * (index // 2))

    messages = [
        refusal("gap", skip=(3,)),
        refusal("tilt", lean=(0, 0.3)),
        refusal("cut", edit=cut),
        refusal("again", edit=again),
        refusal("seg", edit=lambda _, dataset: setattr(dataset, "Modality", "SEG")),
        refusal("odd", edit=lambda _, dataset: setattr(dataset, "Modality", name)),
        refusal("color", edit=lambda _, dataset: setattr(dataset, "SamplesPerPixel", 3)),
    ]
    shutil.copytree(tmp_path / "gap", tmp_path / "both/gap")
    shutil.copytree(tmp_path / "tilt", tmp_path / "both/tilt")
    with pytest.raises(InputError) as refused:
        read(tmp_path / "both")
    text = " ".join([*messages, str(refused.value), caplog.text])
    assert not any(planted in text for planted in synthetic.PLANTED), text


@pytest.mark.parametrize("names", [["/scan.dcm"], ["../scan.dcm"], ["a/../../scan.dcm"], ["C:/scan.dcm"], ["a", "a"]])
def test_an_archive_leads_to_its_own_files_only(tmp_path, names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile says itself that a name comes twice
        with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
            for name in names:
                archive.writestr(name, b"voxels")
    with pytest.raises(InputError, match="names twice, or that lead out"):
        find_sources(tmp_path / "scan.zip")


def test_damage_in_the_meta_information_is_damage_of_the_file(write, tmp_path):
    write("scan")
    file = sorted((tmp_path / "scan").iterdir())[2]
    contents = bytearray(file.read_bytes())
    place = contents.index(b"\x02\x00\x02\x00UI")  # MediaStorageSOPClassUID
    contents[place + 4 : place + 6] = b"\x55\xad"
    file.write_bytes(contents)
    with pytest.raises(InputError, match="damaged"):
        DicomSeriesReader().read(tmp_path / "scan")


def test_a_file_of_nothing_is_refused_by_its_beginning(tmp_path):
    """A download that was made room for: zeros take minutes to parse."""
    with (tmp_path / "scan.dcm").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(InputError, match="damaged"):
        DicomSeriesReader().read(tmp_path)


def test_an_archive_that_would_unpack_to_more_than_a_study_is_refused(write, tmp_path):
    """Each file of it may be of a size that is read; the sizes are those that its directory states."""
    series = write()
    path = zipped(series, tmp_path / "study.zip")
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(MAX_ARCHIVE_BYTES // MAX_MEMBER_BYTES + 1):
            archive.writestr(f"zeros {number}", b"0")
            archive.filelist[-1].file_size = MAX_MEMBER_BYTES
    with pytest.raises(InputError, match=r"^the zip archive holds over 16 GiB, unpacked: unpack it first$"):
        find_sources(path)


def test_a_file_that_swells_beyond_the_size_its_archive_states_is_damage(write, tmp_path):
    series = write()
    path = zipped(series, tmp_path / "study.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.dcm", series.files[0].read_bytes() + bytes(2**26))
        archive.filelist[-1].file_size = 1000
    with pytest.raises(InputError, match=r"DICOM file \d+ of 10 .*damaged"):
        read(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_an_archive_is_damage_of_its_file(write, tmp_path, method):
    series = write(shape=(64, 64, 3))
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for number, file in enumerate(series.files):
            archive.write(file, f"{number}")
        second = archive.filelist[1].header_offset
    np.testing.assert_array_equal(read(path)[0], read(series.folder)[0])
    for place in (60, 400, 3000):
        contents = bytearray(path.read_bytes())
        contents[second + place : second + place + 40] = b"\xa5" * 40
        (tmp_path / f"{place}.zip").write_bytes(contents)
        with pytest.raises(InputError, match=r"DICOM file 2 of 3 .*damaged"):
            read(tmp_path / f"{place}.zip")


def test_an_archive_packed_by_a_method_that_is_not_read_is_refused(write, tmp_path):
    path = zipped(write(), tmp_path / "study.zip")
    contents = path.read_bytes()
    path.write_bytes(contents.replace(b"PK\x01\x02\x14\x03\x14\0\0\0\x08\0", b"PK\x01\x02\x14\x03\x14\0\0\0\x09\0"))
    for reading in (read, lambda given: LoadImaged(keys="image")({"image": str(given)})):
        with pytest.raises(InputError, match=r"^the zip archive is packed by a method that is not read: unpack it"):
            reading(path)


def test_an_archive_that_is_cut_short_says_so(write, tmp_path):
    path = zipped(write("scan"), tmp_path / "study.ZIP")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="zip archive with the DICOM input is damaged or cut short"):
        read(path)
