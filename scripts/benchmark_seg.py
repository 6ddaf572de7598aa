"""Time and memory of writing a DICOM SEG: 100 segments on 500 slices of 512x512.

    python scripts/benchmark_seg.py --folder seg [--share 0.25] [--kind BINARY]

With ``--share 1`` every segment is in every slice: 50,000 frames, the worst there is. Time is that of the writer, from
label map to file; memory is the peak of this process, label map and Python included, plus that of any it starts.
Exit code 1 if they are above the limits.
"""

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian

from unet_bundle.geometry import lps_to_ras
from unet_bundle.io.dicom.record import SourceSeries, SourceSlice
from unet_bundle.io.dicom_seg import DicomSegWriter

MAX_SECONDS, MAX_MB = 60, 4096

CT = "1.2.840.10008.5.1.4.1.1.2"


def main() -> int:
    """Write the object and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the files go")
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--share", type=float, default=1.0, help="of the slices that a segment is in")
    parser.add_argument("--kind", choices=["BINARY", "LABELMAP", "FRACTIONAL"], default="BINARY")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    labels = make_labels(options.segments, options.slices, options.side, options.share)
    meta = make_series(options.folder, labels.shape)
    before = peak_mb()
    start, start_cpu = time.perf_counter(), cpu_seconds()
    described = {f"structure {value}": {"value": value} for value in range(1, options.segments + 1)}
    writer = DicomSegWriter(np.uint8, described, {"name": "benchmark", "version": "1"}, options.kind)
    writer.set_data_array(labels, channel_dim=None)
    writer.set_metadata(meta)
    path = options.folder / "seg.dcm"
    writer.write(path)
    figures = {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(cpu_seconds() - start_cpu, 1),
        "frames": int(pydicom.dcmread(path, specific_tags=["NumberOfFrames"], stop_before_pixels=True).NumberOfFrames),
        "file_mb": path.stat().st_size >> 20,
        "peak_mb": peak_mb(),
        "peak_before_mb": before,
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if figures["seconds"] <= MAX_SECONDS and figures["peak_mb"] <= MAX_MB else 1


def cpu_seconds() -> float:
    """Used so far, by this process and those it started that have ended."""
    return sum(os.times()[:4])


def peak_mb() -> int:
    """Largest resident memory so far, of this process and of the largest that it started and that has ended."""
    used = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return used >> (20 if sys.platform == "darwin" else 10)


def make_labels(segments: int, slices: int, side: int, share: float) -> np.ndarray:
    """Bars side by side, each in its share of the slices; [columns, rows, slices]."""
    labels = np.zeros((side, side, slices), np.uint8)
    width, long = side // segments, max(1, round(share * slices))
    for number in range(segments):
        start = (slices - long) * number // max(segments - 1, 1)
        labels[number * width : (number + 1) * width, :, start : start + long] = number + 1
    return labels


def make_series(folder: Path, shape: tuple[int, ...]) -> dict[str, object]:
    """Metadata of a CT series of this shape, with its first header on disk."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, "1.2.3.4.1"
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = CT, "1.2.3.4.1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3.1", "1.2.3.4", "1.2.3.5"
    dataset.Modality = "CT"
    dataset.save_as(folder / "first.dcm", enforce_file_format=True)
    slices = tuple(
        SourceSlice(str(folder / "first.dcm"), None, 0, (0, 0), CT, f"1.2.3.4.{number + 1}", (0.0, 0.0, float(number)))
        for number in range(shape[2])
    )
    source = SourceSeries((1.0, 0, 0, 0, 1, 0), (1.0, 1.0), (shape[0], shape[1], shape[2]), False, slices)
    affine = lps_to_ras(np.eye(4))
    return {"affine": affine, "original_affine": affine, "spatial_shape": shape, "dicom_source": source.to_json()}


if __name__ == "__main__":
    sys.exit(main())
