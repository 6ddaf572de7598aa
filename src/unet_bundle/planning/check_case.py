"""Reading one labelled case and saying what is wrong with its files."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unet_bundle.errors import InputError
from unet_bundle.geometry import GRID_TOLERANCE_MM, format_shape, grid_difference, orientation_of, spacing_of
from unet_bundle.io import Channels, LoadImaged, Survey, case_name, fit_colors, is_picture
from unet_bundle.planning.findings import Finding, Severity
from unet_bundle.transforms import LabelValues

SHOWN_VALUES = 5
"""Label values that a message names at most."""

_NIFTI_FLOATS = {16: "float32", 64: "float64"}
_AXIS_OF_CODE = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass
class CaseReading:
    """What the comparison of cases needs of one; None and empty where a file could not be read.

    Attributes:
        name: of the case.
        image_file: path of the image, or of its first channel, relative to the data set.
        label_file: path of the label map, relative to the data set.
        findings: about this case alone.
        shape: voxels of the image along its spatial axes.
        spacing: mm along the axes right, anterior, superior (in the file's order for a picture).
        channels: of the image.
        is_4d: whether its channels are in one file.
        digests: one of the voxels of each channel; None for a channel that is constant.
        values: label values that occur, without the one to be ignored.
        ignored: voxels that have the value to be ignored.
    """

    name: str
    image_file: str
    label_file: str
    findings: list[Finding] = field(default_factory=list)
    shape: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    channels: int | None = None
    is_4d: bool = False
    digests: tuple[str | None, ...] = ()
    values: frozenset[int] | None = None
    ignored: int = 0

    def add(self, severity: Severity, kind: str, file: str, message: str) -> None:
        """Note a finding; see `Finding`."""
        self.findings.append(Finding(severity, kind, file, message))


def read_case(
    case: dict[str, Any],
    survey: Survey,
    known: Collection[int] | None,
    channels: Channels | None = None,
    merged: LabelValues | None = None,
    ignore: int | None = None,
) -> CaseReading:
    """Read a case's files, once each, and look at every voxel.

    Args:
        case: ``{"image": path or paths, "label": path}``.
        survey: the data set it is from.
        known: label values that are stated; None: whole numbers from 0 on are accepted.
        channels: of the images, if they are stated: it says how grey and colour pictures are read.
        merged: which values of the label files are which class, if that is stated.
        ignore: the value of label files where nobody labelled, if there is one.
    """
    paths = case["image"] if isinstance(case["image"], list) else [case["image"]]
    reading = CaseReading(case_name(case["image"]), survey.relative(paths[0]), survey.relative(case["label"]))
    grid = None
    image = _load(case["image"], reading, survey, channels)
    if image is not None:
        grid = tuple(int(side) for side in image.shape[1:]), np.asarray(image.affine, dtype=np.float64)
        reading.shape, reading.channels = grid[0], int(image.shape[0])
        reading.is_4d = len(paths) == 1 and reading.channels > 1 and len(grid[0]) == 3
        reading.spacing = _spacing_along_body_axes(grid[1], len(grid[0]))
        # The channels of a grey picture in colour are equal, and those of a fluorescence may be empty.
        _look_at_image(image.numpy(), reading, apart=not is_picture(case["image"]))
        del image  # a scan may take gigabytes: only one at a time
    label = _load(case["label"], reading, survey, 1)
    if label is not None:
        if grid is not None:
            _compare_grids(grid, label, reading)
        _look_at_label(label, known, merged, ignore, reading)
    return reading


def _load(image: str | list[str], reading: CaseReading, survey: Survey, channels: Channels | None) -> Any:
    """The image, or None and a finding."""
    paths = image if isinstance(image, list) else [image]
    path = paths[0]
    try:
        loaded = LoadImaged(keys="image")({"image": image})["image"]
        return fit_colors(loaded, channels) if is_picture(image) else loaded
    except InputError as error:
        message = str(error)
        # The message names the file by its base name; the finding has its path.
        path = next((path for path in paths if message.startswith(f"{Path(path).name} ")), path)
        message = message.removeprefix(f"{Path(path).name} ")
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        message = f"cannot be read ({type(error).__name__}): get a fresh copy of it"
    reading.add("error", "unreadable", survey.relative(path), message)
    return None


def _spacing_along_body_axes(affine: npt.NDArray[np.float64], dims: int) -> tuple[float, ...]:
    spacing = spacing_of(affine)
    if dims < 3:
        return spacing[:dims]
    order = np.argsort([_AXIS_OF_CODE[code] for code in orientation_of(affine)])
    return tuple(spacing[axis] for axis in order)


def _look_at_image(image: FloatArray, reading: CaseReading, apart: bool) -> None:
    """Note constant channels, and what two copies of an image have in common.

    Args:
        image: shape [channels, *spatial].
        reading: what is found is noted there.
        apart: whether each channel is a scan of its own, which has to differ from the others.
    """
    digests: list[str | None] = []
    for channel in image:
        if channel.min() == channel.max():
            digests.append(None)
            continue
        voxels = hashlib.sha256(format_shape(channel.shape).encode())
        voxels.update(np.ascontiguousarray(channel).data)
        digests.append(voxels.hexdigest())
    reading.digests = tuple(digests)
    constant = [number for number, digest in enumerate(digests) if digest is None]
    if len(constant) == len(digests):
        value = f"{float(image.flat[0]):g}"
        reading.add(
            "error", "constant image", reading.image_file, f"has the value {value} everywhere: get the real scan"
        )
    elif not apart:
        return
    elif constant:
        text = f"has a channel without content ({constant[0]} is constant): get the real scan or leave the case out"
        reading.add("warning", "constant image", reading.image_file, text)
    for number, digest in enumerate(digests):
        first = digests.index(digest)
        if digest is not None and first < number:
            text = f"has the same voxels in channels {first} and {number}: give each channel its own scan"
            reading.add("warning", "duplicate", reading.image_file, text)


def _compare_grids(grid: tuple[tuple[int, ...], npt.NDArray[np.float64]], label: Any, reading: CaseReading) -> None:
    shape = tuple(int(side) for side in label.shape[1:])
    difference = grid_difference(shape, np.asarray(label.affine, dtype=np.float64), *grid)
    if difference:
        kind = "shape differs" if shape != grid[0] else "affine differs"
        text = (
            f"is not on the grid of its image ({difference}; tolerance {GRID_TOLERANCE_MM:g} mm): resample it onto that"
        )
        reading.add("error", kind, reading.label_file, text)


def _look_at_label(
    label: Any,
    known: Collection[int] | None,
    merged: LabelValues | None,
    ignore: int | None,
    reading: CaseReading,
) -> None:
    file = reading.label_file
    if label.shape[0] != 1:
        text = f"has {label.shape[0]} channels, a label map holds one whole number a voxel: merge or split it"
        reading.add("error", "label channels", file, text)
        return
    voxels = label.numpy().ravel()
    fractional = voxels[voxels != np.rint(voxels)]
    if fractional.size:
        some = ", ".join(f"{value:g}" for value in np.unique(fractional)[:SHOWN_VALUES])
        text = f"has {fractional.size} voxels between whole numbers ({some}): resample it by nearest neighbour"
        reading.add("error", "fractional labels", file, text)
        return
    stored = _NIFTI_FLOATS.get(int(label.meta.get("datatype", 0)))
    if stored:
        reading.add("note", "float labels", file, f"is stored as {stored}, but every value is whole: accepted")
    reading.values = frozenset(_whole_values(voxels)) - {ignore}
    if ignore is not None:
        reading.ignored = int(np.count_nonzero(voxels == ignore))
    if merged is not None:
        values = sorted(reading.values)
        classes = dict(zip(values, merged.classes(np.array(values)).tolist(), strict=True))
        unknown = [value for value in values if classes[value] < 0]
        reading.values = frozenset(number for number in classes.values() if number >= 0)
    else:
        unknown = sorted(value for value in reading.values if value < 0 or (known is not None and value not in known))
    if unknown:
        some = ", ".join(map(str, unknown[:SHOWN_VALUES])) + (", ..." if len(unknown) > SHOWN_VALUES else "")
        stated = "labels are 0 or more" if known is None else f"the stated labels are 0 to {max(known)}"
        stated = stated if merged is None else "the task card does not list them"
        text = (
            f"holds {some} in {int(np.isin(voxels, unknown).sum())} voxels, but {stated}: correct it or state the label"
        )
        reading.add("error", "unknown labels", file, text)
    if not reading.values:
        text = f"has the value {ignore} everywhere, which is to be ignored: nothing is learnt from it"
        reading.add("warning", "empty label", file, text)
    elif not any(value > 0 for value in reading.values):
        reading.add("warning", "empty label", file, "labels nothing but background: check that this is meant")
    elif 0 not in reading.values:
        reading.add("warning", "no background", file, "labels every voxel as foreground: check that this is meant")


def _whole_values(voxels: FloatArray) -> list[int]:
    """The values that occur, each once."""
    # Labels come in runs: looking where a value changes leaves little of the sorting behind np.unique.
    starts = np.flatnonzero(voxels[1:] != voxels[:-1]) + 1
    return [int(value) for value in np.unique(np.append(voxels[:1], voxels[starts]))]
