"""The cases that were found worst, kept as a few cuts each while an evaluation runs and drawn at its end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from unet_bundle.evaluation.views import View


class WorstCases:
    """Keeps what a picture of the worst cases needs: three cuts of each instead of its volumes.

    Args:
        labels: name of each class and its value.
        count: how many cases; 0 for none.
        colors: red, green and blue (0 to 255) by name of a class; the others get colours of their own.
    """

    def __init__(
        self, labels: Mapping[str, int], count: int, colors: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.labels = dict(labels)
        self.count = count
        self.colors = colors
        self._kept: dict[str, tuple[float, list[View]]] = {}

    def clear(self) -> None:
        """Forget all cases."""
        self._kept.clear()

    def offer(
        self,
        name: str,
        score: float | None,
        image: tuple[npt.NDArray[Any], npt.NDArray[np.float64]],
        label: tuple[npt.NDArray[Any], npt.NDArray[np.float64]],
        prediction: npt.NDArray[Any],
    ) -> None:
        """Keep a case if it is among the worst so far.

        Args:
            name: of the case.
            score: its mean Dice; None if nothing was to be found, which cannot be a bad result.
            image: one channel [*spatial] of any grid and its affine, 4x4; for a plane also colours [x, y, 3].
            label: the truth [*spatial] and its affine, 4x4.
            prediction: on the truth's grid.
        """
        if score is None or self.count < 1:
            return
        ranked = sorted([(kept, who) for who, (kept, _) in self._kept.items()] + [(score, name)])[: self.count]
        if (score, name) not in ranked:
            return
        from unet_bundle.evaluation.picture import pick_views  # Matplotlib, which a server may do without

        views = pick_views(_on_grid(*image, *label), label[0], prediction, self.labels, affine=label[1])
        self._kept[name] = score, [_copied(view) for view in views]
        self._kept = {who: self._kept[who] for _, who in ranked}

    def draw(self, folder: Path, report: Mapping[str, Any]) -> None:
        """Draw those of the worst cases that were seen here, as ``worst_<rank>_<case>.png``.

        Args:
            folder: where the pictures go.
            report: the content of scores.json, of the cases of all processes.
        """
        if not self._kept:
            return
        from unet_bundle.evaluation.picture import draw_views

        for rank, name in enumerate(report["worst"], start=1):
            if name not in self._kept:
                continue
            score, views = self._kept[name]
            dice = {organ: math.nan if value is None else value for organ, value in report["cases"][name].items()}
            path = picture_path(folder, rank, name)
            title = f"{name}: mean Dice {score:.3f}"
            draw_views(views, self.labels, path, title, colors=self.colors, dice=dice)


def picture_path(folder: Path, rank: int, name: str) -> Path:
    """Where the picture of a case goes; the worst has rank 1."""
    return folder / f"worst_{rank}_{name}.png"


def shown_channels(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What is drawn of an image [channels, *spatial]: of a plane of three channels its colours, else the first."""
    return np.moveaxis(image, 0, -1) if image.ndim == 3 and image.shape[0] == 3 else image[0]


def _copied(view: View) -> View:
    """A cut that does not hold on to the volume it was taken from."""
    truth, prediction = (None if label is None else label.copy() for label in (view.truth, view.prediction))
    return dataclasses.replace(view, image=view.image.copy(), truth=truth, prediction=prediction)


def _on_grid(
    image: npt.NDArray[Any],
    image_affine: npt.NDArray[np.float64],
    label: npt.NDArray[Any],
    label_affine: npt.NDArray[np.float64],
) -> npt.NDArray[Any]:
    """An image as it lies under a label map: evaluation has it as the network saw it, turned and resampled."""
    axes = label.ndim
    if image.ndim > axes:  # colours, each a plane of its own
        planes = [_on_grid(plane, image_affine, label, label_affine) for plane in np.moveaxis(image, -1, 0)]
        return np.stack(planes, axis=-1)
    to_image = np.linalg.inv(image_affine) @ label_affine
    if image.shape == label.shape and np.allclose(to_image, np.eye(4), atol=1e-3):
        return image
    moved: npt.NDArray[Any] = ndimage.affine_transform(
        image, to_image[:axes, :axes], to_image[:axes, 3], output_shape=label.shape, order=1, mode="nearest"
    )
    return moved
