"""Series made to order, with the truth beside them: every voxel of the phantom tells its own place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

CT, MR, PT = (f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("2", "4", "128"))
PLANTED = ("PLANTED^NAME", "PLANTED-ID-77", "19010203")
"""What no message may ever show: name, id and birth date of the patient in every file."""

ORIENTATIONS = {
    "axial": [[1, 0, 0], [0, 1, 0]],
    "sagittal": [[0, 1, 0], [0, 0, -1]],
    "coronal": [[1, 0, 0], [0, 0, -1]],
    "oblique": [[0.9541666, -0.2080757, 0.2151061], [0.2785886, 0.880128, -0.3843997]],
    "feet first": [[-1, 0, 0], [0, 1, 0]],
    "prone": [[-1, 0, 0], [0, -1, 0]],
    "negated cosines": [[1, 0, 0], [0, -1, 0]],
}


@dataclass
class Series:
    """A series on disk and what is true of it.

    Attributes:
        folder: of its files.
        voxels: stored values, [slices, rows, columns], in the order of positions along the step.
        positions: of the slices, [slices, 3], mm, LPS.
        axes: 2x3, directions of growing column and row index, LPS.
        spacing: mm between columns, rows and slices.
        files: one a slice.
    """

    folder: Path
    voxels: np.ndarray
    positions: np.ndarray
    axes: np.ndarray
    spacing: tuple[float, float, float]
    files: list[Path]

    def ras(self, column: int, row: int, number: int) -> np.ndarray:
        """Where a voxel is, mm, RAS: from the definition, with no affine in between."""
        lps = self.positions[number] + column * self.spacing[0] * self.axes[0] + row * self.spacing[1] * self.axes[1]
        return lps * [-1, -1, 1]


def write_series(
    folder: Path,
    shape: Sequence[int] = (12, 10, 8),
    spacing: tuple[float, float, float] = (0.8, 0.9, 2.0),
    orientation: str | Sequence[Sequence[float]] = "axial",
    origin: Sequence[float] = (-50.0, 30.0, 10.0),
    lean: Sequence[float] = (0.0, 0.0),
    depths: Sequence[float] | None = None,
    skip: Sequence[int] = (),
    modality: str = "CT",
    syntax: UID = ExplicitVRLittleEndian,
    signed: bool = True,
    bits: int = 16,
    edit: Callable[[int, Dataset], None] | None = None,
    seed: int = 0,
    series: int = 0,
) -> Series:
    """Write one file a slice, with names and instance numbers in random order.

    Args:
        folder: made if missing.
        shape: columns, rows, slices.
        spacing: mm, in the same order.
        orientation: name in `ORIENTATIONS`, or cosines.
        origin: position of the first slice, mm, LPS.
        lean: in-plane shift, mm for each mm along the normal, along the column and the row direction.
        depths: mm along the normal of each slice, instead of multiples of the spacing.
        skip: slices that are not written.
        modality: CT, MR or PT.
        syntax: transfer syntax; native ones are written as they are, others by pydicom's encoders.
        signed: PixelRepresentation.
        bits: BitsStored.
        edit: changes slice `index`'s data set before it is written.
        seed: of voxels and order.
        series: number of the series.
    """
    generator = np.random.default_rng(seed)
    columns, rows, count = shape
    axes = np.asarray(ORIENTATIONS[orientation] if isinstance(orientation, str) else orientation, dtype=np.float64)
    normal = np.cross(*axes)
    along = np.asarray(depths if depths is not None else spacing[2] * np.arange(count))
    drift = np.asarray(lean) @ axes
    positions = np.asarray(origin) + along[:, None] * (normal + drift)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    low, high = max(low, -1024), min(high, 3000)
    voxels = generator.integers(low, high, (count, rows, columns)).astype(np.int16 if signed else np.uint16)
    numbers = generator.permutation(count) + 1
    folder.mkdir(parents=True, exist_ok=True)
    study = "1.2.826.0.1.3680043.8.498.1"
    uid, reference = (f"1.2.826.0.1.3680043.8.498.{seed}.{series}.{kind}" for kind in (2, 3))
    files = []
    for index in range(count):
        dataset = _dataset(modality, syntax)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, uid, reference
        dataset.SOPInstanceUID = f"{uid}.{index + 1}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.SeriesNumber, dataset.InstanceNumber = series, int(numbers[index])
        dataset.ImagePositionPatient = [format_number_as_ds(float(value)) for value in positions[index]]
        dataset.ImageOrientationPatient = [format_number_as_ds(float(value)) for value in axes.ravel()]
        dataset.PixelSpacing = [format_number_as_ds(float(spacing[1])), format_number_as_ds(float(spacing[0]))]
        dataset.SliceThickness = format_number_as_ds(float(spacing[2]))
        dataset.Rows, dataset.Columns = rows, columns
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
        dataset.PixelRepresentation = int(signed)
        mask = (1 << bits) - 1  # the bits above stay empty, also of negative values
        stored = voxels[index].view(np.uint16) & np.uint16(mask)
        set_pixels(dataset, stored, syntax)
        if edit is not None:
            edit(index, dataset)
        if index not in skip:
            path = folder / f"{numbers[index]:04d}.dcm"
            save(dataset, path, syntax)
            files.append(path)
    return Series(folder, voxels, positions, axes, spacing, files)


def set_pixels(dataset: Dataset, stored: np.ndarray, syntax: UID = ExplicitVRLittleEndian) -> None:
    dataset.PixelData = stored.astype("<u2" if syntax.is_little_endian else ">u2").tobytes()
    dataset["PixelData"].VR = "OW"


def save(dataset: FileDataset, path: Path, syntax: UID = ExplicitVRLittleEndian) -> None:
    """Write a data set in a transfer syntax."""
    if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path, enforce_file_format=True)
        return
    dataset.save_as(path, enforce_file_format=True)


def _dataset(modality: str, syntax: UID) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    native = ExplicitVRLittleEndian if syntax.is_compressed else syntax
    dataset = FileDataset(
        "", {}, bytes(128), meta, is_implicit_VR=native.is_implicit_VR, is_little_endian=native.is_little_endian
    )
    dataset.SOPClassUID = {"CT": CT, "MR": MR, "PT": PT}[modality]
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.Modality, dataset.ImageType = modality, ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = PLANTED
    dataset.SeriesDescription = f"series of {PLANTED[0]}"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    if modality != "MR":
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    return dataset


def write_multiframe(folder: Path, times: int = 1, order_seed: int = 0, **kwargs: Any) -> tuple[Series, Path]:
    """The slices of a series as one enhanced CT with its frames in random order, `times` volumes in it."""
    series = write_series(folder / "single", **kwargs)
    first = pydicom.dcmread(series.files[0])
    dataset = _dataset("CT", ExplicitVRLittleEndian)
    dataset.update({element.tag: element for element in first if element.keyword != "PixelData"})
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, keyword)
    del dataset.RescaleSlope, dataset.RescaleIntercept
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(order_seed)])
    shared, frames, pixels = Dataset(), [], []
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=first.ImageOrientationPatient)]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)]
    shared.PixelValueTransformationSequence = [_item(RescaleSlope="1", RescaleIntercept="-1000", RescaleType="HU")]
    count = len(series.positions)
    for number in np.random.default_rng(order_seed).permutation(count * times):
        index, time = int(number % count), int(number // count)
        position = [format_number_as_ds(float(value)) for value in series.positions[index]]
        frames.append(
            _item(
                PlanePositionSequence=[_item(ImagePositionPatient=position)],
                FrameContentSequence=[_item(TemporalPositionIndex=time + 1)],
            )
        )
        pixels.append(series.voxels[index] + 10 * time)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    dataset.NumberOfFrames = len(frames)
    set_pixels(dataset, np.stack(pixels))
    path = folder / "enhanced.dcm"
    save(dataset, path)
    return series, path


def _item(**elements: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset
