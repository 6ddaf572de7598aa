"""Time from a folder to an array: our DICOM reader beside SimpleITK's (GDCM), on the same synthetic CT.

python scripts/benchmark_dicom.py [--slices 300] [--side 512] [--repeats 5] [--json FILE]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813 - its own name for itself
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from unet_bundle.io.dicom import DicomSeriesReader

JPEG_2000 = "1.2.840.10008.1.2.4.90"


def write_series(folder: Path, side: int, slices: int) -> None:
    """A CT of a noisy disc, uncompressed, explicit little endian; file names in no order."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] - side / 2
    disc = np.where(np.hypot(rows, columns) < 0.4 * side, 40, -1000)
    folder.mkdir(parents=True)
    for index, name in enumerate(generator.permutation(slices)):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{index + 1}"
        dataset = FileDataset("", {}, bytes(128), meta, is_implicit_VR=False, is_little_endian=True)
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"1.2.3.4.{index + 1}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.1", "1.2.2", "1.2.3"
        dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.PatientName, dataset.PatientID, dataset.InstanceNumber = "Bench^Mark", "1", int(name)
        dataset.ImagePositionPatient = ["-200", "-200", str(round(1.25 * index, 4))]
        dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        dataset.PixelSpacing, dataset.SliceThickness = ["0.78125", "0.78125"], "1.25"
        dataset.Rows = dataset.Columns = side
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "-1024", "1", "HU"
        voxels = disc + 1024 + generator.integers(-20, 20, disc.shape)
        dataset.PixelData = voxels.astype("<i2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.save_as(folder / f"{name:05d}.dcm", enforce_file_format=True)


def compress(source: Path, target: Path) -> None:
    """The same series as JPEG 2000 lossless, written by SimpleITK's GDCM and given its elements back."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        image = sitk.Cast(
            sitk.ReadImage(str(path)), sitk.sitkInt16
        )  # GDCM rescales to 32 bits, which JPEG 2000 has not
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG2000")
        writer.SetFileName(str(target / path.name))
        writer.Execute(image)
        original = pydicom.dcmread(path)
        written = pydicom.dcmread(target / path.name)
        for element in written.group_dataset(0x0028):
            original[element.tag] = element
        original["PixelData"] = written["PixelData"]
        original.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID
        original.save_as(target / path.name)


def ours(folder: Path) -> Any:
    """Array [columns, rows, slices] by our reader."""
    reader = DicomSeriesReader()
    return reader.get_data(reader.read(folder))[0]


def theirs(folder: Path) -> Any:
    """Array [slices, rows, columns] by SimpleITK."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())


def timed(function: Callable[[Path], Any], folder: Path) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function(folder)
    return time.perf_counter() - start


def main() -> int:
    """Measure, print, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jpeg2000", action="store_true", help="measure a JPEG 2000 series, too")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    figures = {"slices": options.slices, "side": options.side, "repeats": options.repeats}
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        write_series(plain, options.side, options.slices)
        kinds = {"uncompressed": plain}
        if options.jpeg2000:
            kinds["jpeg2000"] = Path(folder) / "jpeg2000"
            compress(plain, kinds["jpeg2000"])
        for kind, series in kinds.items():
            if not np.array_equal(ours(series), theirs(series).transpose(2, 1, 0)):  # both warm after this
                sys.exit("the two readers differ")
            # In turns, so that a busy moment of the machine strikes both.
            pairs = [(timed(ours, series), timed(theirs, series)) for _ in range(options.repeats)]
            our, their = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
            figures[kind] = {"ours_s": our, "simpleitk_s": their, "ratio": our / their, "all_s": pairs}
            print(f"{kind}: ours {our:.2f} s, SimpleITK {their:.2f} s, ratio {our / their:.2f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
