"""Flat cuts through a scan and its label maps, turned as a radiologist looks at them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from unet_bundle.geometry import spacing_of

# Name, axis cut through, and the letters at the left, right, top and bottom edge: as a radiologist looks at it.
_PLANES = (("axial", 2, "RLAP"), ("coronal", 1, "RLSI"), ("sagittal", 0, "APSI"))


@dataclass(frozen=True)
class View:
    """One cut, its rows from bottom to top: arrays [rows, columns] and the size of their pixels in mm.

    The image of a colour picture has the shape [rows, columns, 3].
    """

    name: str
    image: npt.NDArray[np.float32]
    truth: npt.NDArray[Any] | None
    prediction: npt.NDArray[Any] | None
    pixel: tuple[float, float]  # width, height
    letters: str

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in mm."""
        rows, columns = self.image.shape[:2]
        return columns * self.pixel[0], rows * self.pixel[1]


def flat_view(
    image: npt.NDArray[Any],
    truth: npt.NDArray[Any] | None,
    prediction: npt.NDArray[Any] | None,
    affine: npt.ArrayLike | None,
) -> View:
    """An image [x, y] or [x, y, 3] as it is seen: its first axis to the right, its second downwards."""
    width, height = (1.0, 1.0) if affine is None else spacing_of(affine)[:2]

    def upright(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        rows: npt.NDArray[Any] = array.swapaxes(0, 1)[::-1]
        return rows

    return View(
        name="",
        image=upright(image).astype(np.float32),
        truth=None if truth is None else upright(truth),
        prediction=None if prediction is None else upright(prediction),
        pixel=(width, height),
        letters="",
    )


def volume_views(
    image: npt.NDArray[Any],
    truth: npt.NDArray[Any] | None,
    prediction: npt.NDArray[Any] | None,
    values: Sequence[int],
    affine: npt.ArrayLike | None,
) -> list[View]:
    """The three cuts, turned so that the patient's right and front are on the left of the picture."""
    matrix = np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64)
    to_lps = nib.orientations.ornt_transform(nib.io_orientation(matrix), nib.orientations.axcodes2ornt("LPS"))
    spacing = np.empty(3)
    spacing[to_lps[:, 0].astype(int)] = spacing_of(matrix)

    def turned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        result: npt.NDArray[Any] = nib.apply_orientation(array, to_lps)
        return result

    image = turned(image).astype(np.float32)
    truth = None if truth is None else turned(truth)
    prediction = None if prediction is None else turned(prediction)
    views = []
    for name, axis, letters in _PLANES:
        index = _fullest_slice(truth, prediction, values, axis, image.shape[axis])
        across, up = (other for other in range(3) if other != axis)

        def cut(array: npt.NDArray[Any], axis: int = axis, index: int = index) -> npt.NDArray[Any]:
            rows: npt.NDArray[Any] = np.take(array, index, axis=axis).T
            return rows[::-1] if axis == 2 else rows  # LPS: rows run to the back, and the front belongs on top

        views.append(
            View(
                name=name,
                image=cut(image),
                truth=None if truth is None else cut(truth),
                prediction=None if prediction is None else cut(prediction),
                pixel=(float(spacing[across]), float(spacing[up])),
                letters=letters,
            )
        )
    return views


def _fullest_slice(
    truth: npt.NDArray[Any] | None,
    prediction: npt.NDArray[Any] | None,
    values: Sequence[int],
    axis: int,
    count: int,
) -> int:
    """Index of the slice that shows most: each structure's area there as a part of its largest area, added up."""
    others = tuple(other for other in range(3) if other != axis)
    for label in (truth, prediction):
        score = np.zeros(count)
        for value in values if label is not None else ():
            areas = np.count_nonzero(label == value, axis=others)
            score += areas / max(int(areas.max()), 1)
        if score.any():
            return int(score.argmax())
    return count // 2
