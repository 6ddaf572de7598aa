"""One conversion between DICOM and NIfTI, as a program: it needs pydicom 3, which the server that starts it has not.

python -m unet_bundle.labeling.dicom_worker image|labels|seg BUNDLE INPUT... OUTPUT
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.data import MetaTensor

from unet_bundle.errors import InputError
from unet_bundle.geometry import as_4x4
from unet_bundle.io import LoadImaged, SaveImaged
from unet_bundle.io.algorithm import AUTOMATIC, SEMIAUTOMATIC
from unet_bundle.io.files import replacing
from unet_bundle.io.segments import segments_of
from unet_bundle.labeling.dicom import reading_options
from unet_bundle.runtime import error_message

ON_GRID = 0.01
"""Voxels by which two grids may differ to be taken for one."""


def write_image(bundle: Path, series: Path, output: Path) -> None:
    """A DICOM series as NIfTI, whole numbers as such.

    Raises:
        InputError: the reader refuses the series.
    """
    image = _loaded(bundle, series)
    voxels = image[0].numpy()
    whole = np.round(voxels)
    if np.array_equal(whole, voxels) and np.abs(voxels).max() < np.iinfo(np.int16).max:
        voxels = whole.astype(np.int16)
    _save(voxels, as_4x4(image.affine), output)


def write_seg(bundle: Path, series: Path, label: Path, output: Path, algorithm_type: str = AUTOMATIC) -> None:
    """A label map of a series as DICOM SEG; `algorithm_type` says whether a person had a hand in it.

    Raises:
        InputError: the map is not on the series' grid, or has a value the bundle has no class for, or the series lacks
            what a SEG must refer to.
    """
    config = json.loads((bundle / "configs" / "inference.json").read_text(encoding="utf-8"))
    image = _loaded(bundle, series)
    labels = LoadImaged(keys="label")({"label": str(label)})["label"]
    grid, shape = as_4x4(image.affine), tuple(image.shape[1:])
    placed = placed_on(labels[0].numpy().astype(np.uint16), as_4x4(labels.affine), grid, shape)
    segments = dict(config["segments"])
    # An annotator's own classes, of which no more is known; a SEG numbers its segments without a gap.
    described = {terms["value"] for terms in segments.values()}
    for value in range(1, int(placed.max(initial=0)) + 1):
        if value not in described:
            segments[f"label {value}"] = {"value": value}
    wide = placed.max(initial=0) > np.iinfo(np.uint8).max
    result = MetaTensor(placed[None].astype(np.uint16 if wide else np.uint8), affine=image.affine, meta=image.meta)
    save = SaveImaged(
        keys="pred", output_dir=str(output.parent), dtype="uint16" if wide else "uint8", output_format="dicom-seg",
        segments=segments, algorithm={**config.get("algorithm", {}), "type": algorithm_type},
    )  # fmt: skip
    save.saver(result, filename=str(output.with_suffix("")))


def write_labels(bundle: Path, seg: Path, output: Path) -> None:
    """A DICOM SEG as a label map on the grid of its series, which lies beside it in MONAI Label's cache.

    Segments are known by their names: a SEG that another program wrote may number them otherwise, or have others.

    Args:
        bundle: for how series are read.
        seg: folder of the SEG, ``CACHE/labels/final/UID``; the series is ``CACHE/UID``.
        output: NIfTI file.

    Raises:
        InputError: the series is not there, or its grid is another.
    """
    from highdicom.seg import segread

    files = sorted(path for path in seg.iterdir() if path.is_file())
    if len(files) != 1:
        raise InputError(f"the folder of a DICOM SEG has {len(files)} files: it must have one")
    content = segread(files[0])
    series = seg.parents[2] / str(content.ReferencedSeriesSequence[0].SeriesInstanceUID)
    if not series.is_dir():
        raise InputError("the series that a DICOM SEG belongs to is not in the cache: open it once")
    image = _loaded(bundle, series)
    volume = content.get_volume(combine_segments=True, allow_missing_positions=True, skip_overlap_checks=False)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    grid, shape = as_4x4(image.affine), tuple(image.shape[1:])
    config = json.loads((bundle / "configs" / "inference.json").read_text(encoding="utf-8"))
    names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in content.SegmentSequence}
    values = values_of_segments(names, config["segments"])
    numbers = np.zeros(max(values) + 1, np.uint16)
    numbers[list(values)] = list(values.values())
    labels = placed_on(numbers[volume.array], affine, grid, shape, partly=True)
    _save(labels.astype(np.uint8) if labels.max(initial=0) < 256 else labels, grid, output)


def values_of_segments(names: Mapping[int, str], described: Mapping[str, Mapping[str, Any]]) -> dict[int, int]:
    """Value in a label map for each segment of a DICOM SEG.

    Args:
        names: of its segments, by number.
        described: the bundle's classes.

    Returns:
        By number. A structure that the bundle does not know gets a value that none of its classes has.
    """
    known = {each.label.casefold(): each.value for each in segments_of(described, np.zeros((1, 1), np.uint8))}
    taken = set(known.values())
    values: dict[int, int] = {}
    for number, name in names.items():
        value = known.get(name.strip().casefold())
        if value is None:
            value = number if number not in taken else max(*taken, *names) + 1
            taken.add(value)
        values[number] = value
    return values


def placed_on(
    labels: npt.NDArray[np.uint16],
    affine: npt.NDArray[np.float64],
    grid: npt.NDArray[np.float64],
    shape: Sequence[int],
    *,
    partly: bool = False,
) -> npt.NDArray[np.uint16]:
    """A label map on a grid that differs by order and direction of the axes only.

    Args:
        labels: whole numbers, shape [*spatial].
        affine: its own, voxel to mm, 4x4, RAS.
        grid: the other, alike.
        shape: of the other.
        partly: it may be smaller, as a DICOM SEG without its empty slices is.

    Raises:
        InputError: the voxels do not coincide.
    """
    step = np.linalg.inv(grid) @ affine
    whole = np.round(step)
    extent = np.asarray([*labels.shape, 1])
    if np.abs((step - whole) @ extent).max() > ON_GRID or not np.isclose(abs(np.linalg.det(whole[:3, :3])), 1):
        raise InputError("the label map is not on the grid of its scan: save it in the scan's geometry")
    if not partly and sorted(labels.shape) != sorted(shape):
        raise InputError(f"the label map has {labels.shape} voxels, its scan {tuple(shape)}: save it whole")
    places = np.argwhere(labels)
    there = (places @ whole[:3, :3].T + whole[:3, 3]).astype(int)
    if len(there) and (there.min() < 0 or (there >= np.asarray(shape)).any()):
        raise InputError("the label map reaches beyond its scan: save it in the scan's geometry")
    placed = np.zeros(tuple(shape), np.uint16)
    placed[tuple(there.T)] = labels[tuple(places.T)]
    return placed


def _loaded(bundle: Path, series: Path) -> MetaTensor:
    image: MetaTensor = LoadImaged(keys="image", dicom=reading_options(bundle))({"image": str(series)})["image"]
    if len(image) != 1:
        raise InputError(f"the series has {len(image)} channels: MONAI Label shows one")
    return image


def _save(voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64], output: Path) -> None:
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    with replacing(output) as temporary:
        nib.save(image, temporary)


CONVERSIONS = {
    "image": write_image,
    "labels": write_labels,
    "seg": write_seg,
    "annotation": functools.partial(write_seg, algorithm_type=SEMIAUTOMATIC),
}


def main(arguments: Sequence[str]) -> int:
    """Convert; what is refused is the last line."""
    what, bundle, *paths = arguments
    convert: Any = CONVERSIONS[what]
    try:
        convert(Path(bundle), *map(Path, paths))
    except Exception as error:
        line = error_message(error)
        if line is None:
            raise
        sys.stderr.write(f"Error: {line}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
