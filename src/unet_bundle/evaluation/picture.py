"""The picture of a result: the scan with truth and prediction drawn over it, in true proportions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from scipy import ndimage

from unet_bundle.evaluation.style import FAINT, TEXT, WIDTH, Color, colors_by_name, new_figure, save_png
from unet_bundle.evaluation.views import View, flat_view, volume_views

_PERCENTILES = (1.0, 99.7)  # percentiles of the slices shown that become black and white
_OUTLINE_STEPS = 4  # points of an outline to a voxel
_LEGEND_COLUMNS = 6


def overlay_picture(
    image: npt.ArrayLike,
    truth: npt.ArrayLike | None,
    prediction: npt.ArrayLike | None,
    labels: Mapping[str, int],
    path: Path,
    title: str = "",
    *,
    affine: npt.ArrayLike | None = None,
    colors: Mapping[str, Sequence[int]] | None = None,
    dice: Mapping[str, float] | None = None,
) -> Path:
    """Draw a scan with the truth as outlines and the prediction as translucent areas, in true proportions, as a PNG.

    A volume is shown axial, coronal and sagittal, each through the slice that shows most of the structures; an image
    [width, height] is shown whole. The upper row is the scan alone.

    Args:
        image: one channel, [x, y, z] or [x, y], in the array order of the file; a picture in colour is [x, y, 3] of
            whole numbers or of any scale that the three channels share.
        truth: label map of the same shape, or None.
        prediction: label map of the same shape, or None.
        labels: value of each structure by name; the background, 0, is left out of the picture.
        path: PNG file to write; its folder is made if missing.
        title: a line above the picture.
        affine: 4x4, voxel index to mm (RAS); without it voxels are cubes along the axes.
        colors: red, green and blue (0 to 255) by structure name; the others get colours of their own.
        dice: score by structure name, shown beside the names; NaN is shown as n/a.

    Returns:
        `path`.

    Raises:
        ValueError: `image` is neither 2D nor 3D, or a label map has another shape.
    """
    views = pick_views(image, truth, prediction, labels, affine=affine)
    return draw_views(views, labels, path, title, colors=colors, dice=dice)


def pick_views(
    image: npt.ArrayLike,
    truth: npt.ArrayLike | None,
    prediction: npt.ArrayLike | None,
    labels: Mapping[str, int],
    *,
    affine: npt.ArrayLike | None = None,
) -> list[View]:
    """The cuts that `overlay_picture` shows, to be kept in place of the volumes; see there for arguments and errors."""
    voxels = _squeezed(np.asarray(image))
    if voxels.ndim == 3 and voxels.shape[-1] == 3 and is_flat(truth, prediction):
        masks = [_label_map(truth, "truth", voxels.shape[:2]), _label_map(prediction, "prediction", voxels.shape[:2])]
        return [flat_view(voxels, masks[0], masks[1], affine)]
    if voxels.ndim not in (2, 3):
        raise ValueError(f"A picture needs one channel of a 2D or 3D image, not an array of shape {voxels.shape}.")
    masks = [_label_map(truth, "truth", voxels.shape), _label_map(prediction, "prediction", voxels.shape)]
    values = [value for value in labels.values() if value != 0]
    if voxels.ndim == 3:
        return volume_views(voxels, masks[0], masks[1], values, affine)
    return [flat_view(voxels, masks[0], masks[1], affine)]


def draw_views(
    views: Sequence[View],
    labels: Mapping[str, int],
    path: Path,
    title: str = "",
    *,
    colors: Mapping[str, Sequence[int]] | None = None,
    dice: Mapping[str, float] | None = None,
) -> Path:
    """Draw cuts as `overlay_picture` does; see there for arguments."""
    structures = {name: value for name, value in labels.items() if value != 0}
    figure = _panels(views, structures, colors_by_name(structures, colors), dice or {}, title)
    save_png(figure, path)
    return path


def is_flat(*labels: npt.ArrayLike | None) -> bool:
    """Whether label maps are given and all of them are planes [x, y]: then an image with a third axis has channels."""
    planes = [_squeezed(np.asarray(label)).ndim == 2 for label in labels if label is not None]
    return bool(planes) and all(planes)


def _label_map(label: npt.ArrayLike | None, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
    if label is None:
        return None
    values = _squeezed(np.asarray(label))
    if values.shape != shape:
        raise ValueError(f"The {name} has shape {values.shape}, the image {shape}.")
    return values


def _squeezed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Without the trailing axes of length 1 that image files may carry."""
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    return array


def _panels(
    views: Sequence[View],
    structures: Mapping[str, int],
    colors: Mapping[str, Color],
    dice: Mapping[str, float],
    title: str,
) -> Figure:
    """Volumes: a column for each cut, the scan above and the overlay below. Images: both side by side."""
    # A very flat or very tall cut stands in the middle of a cell of bounded proportions.
    proportions = [float(np.clip(view.size[0] / view.size[1], 0.5, 1.8)) for view in views]
    annotated = any(label is not None for view in views for label in (view.truth, view.prediction))
    cells = [(view, number) for view in views for number in range(1 + annotated)]
    flat = len(views) == 1
    columns = proportions * len(cells) if flat else proportions
    rows = 2 if annotated and not flat else 1

    # All in inches, from the lower left.
    edge, gap, head = 0.25, 0.12, 0.62 if title else 0.25
    foot = 0.12 + 0.3 * -(-(len(structures) + 2) // _LEGEND_COLUMNS) if annotated else edge
    cell = min((WIDTH - 2 * edge - gap * (len(columns) - 1)) / sum(columns), 5.5)
    width = sum(columns) * cell + gap * (len(columns) - 1) + 2 * edge
    height = rows * (cell + gap) - gap + head + foot
    figure = new_figure(width, height)

    window = _window(views)
    for at, (view, number) in enumerate(cells):
        column, row = (at, 0) if flat else (at // rows, rows - 1 - number)
        left = edge + sum(columns[:column]) * cell + gap * column
        bottom = foot + row * (cell + gap)
        axes = figure.add_axes((left / width, bottom / height, columns[column] * cell / width, cell / height))
        _scan(axes, view, window)
        if number == 0:
            _annotate(axes, view)
        else:
            _overlay(axes, view, structures, colors)
    if title:
        figure.text(edge / width, 1 - 0.31 / height, title, color=TEXT, fontsize=15, va="center")
    if annotated:
        _legend(figure, views, structures, colors, dice)
    return figure


def _window(views: Sequence[View]) -> tuple[float, float]:
    """The brightness that becomes black and the one that becomes white."""
    seen = np.concatenate([view.image[np.isfinite(view.image)] for view in views])
    low, high = np.percentile(seen, _PERCENTILES) if seen.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-6))


def _scan(axes: Axes, view: View, window: tuple[float, float]) -> None:
    width, height = view.size
    image = np.nan_to_num(view.image, nan=window[0], posinf=window[1], neginf=window[0])
    if image.ndim == 3:  # colours are drawn as they are, from 0 to 1
        image = np.clip((image - window[0]) / (window[1] - window[0]), 0, 1)
    axes.imshow(
        image,
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        origin="lower",
        extent=(0, width, 0, height),
        interpolation="bicubic",
        aspect="equal",
    )
    axes.set_autoscale_on(False)
    axes.set_axis_off()


def _annotate(axes: Axes, view: View) -> None:
    """The name of the cut, the letters of its edges and a scale bar."""
    if not view.letters:
        return
    width, height = view.size
    halo = [Stroke(linewidth=2.5, foreground="black", alpha=0.6), Normal()]

    def write(
        x: float, y: float, words: str, color: str = FAINT, across: str = "center", along: str = "center"
    ) -> None:
        axes.text(
            x, y, words, transform=axes.transAxes, color=color, ha=across, va=along, fontsize=9, path_effects=halo
        )  # fmt: skip

    left, right, top, bottom = list(view.letters)
    write(0.015, 0.98, view.name, TEXT, across="left", along="top")
    write(0.015, 0.5, left, across="left")
    write(0.985, 0.5, right, across="right")
    write(0.5, 0.98, top, along="top")
    write(0.5, 0.02, bottom, along="bottom")
    bar = max((length for length in (1, 2, 5, 10, 20, 50, 100) if length <= width / 3), default=width / 3)
    x, y = 0.03 * width, 0.04 * height
    axes.plot([x, x + bar], [y, y], color=TEXT, linewidth=2, solid_capstyle="butt", path_effects=halo)
    write(x / width + bar / width / 2, y / height + 0.02, f"{bar:g} mm", TEXT, along="bottom")


def _overlay(axes: Axes, view: View, structures: Mapping[str, int], colors: Mapping[str, Color]) -> None:
    """Prediction as areas, truth as outlines over them."""
    for name, value in structures.items():
        if view.prediction is not None and (view.prediction == value).any():
            x, y, inside = _smooth_edge(view, view.prediction == value)
            axes.contourf(x, y, inside, levels=[0.5, 2], colors=[(*colors[name], 0.42)], antialiased=True)
    for name, value in structures.items():
        if view.truth is not None and (view.truth == value).any():
            x, y, inside = _smooth_edge(view, view.truth == value)
            lines = axes.contour(x, y, inside, levels=[0.5], colors=[colors[name]], linewidths=1.7)
            lines.set_path_effects([Stroke(linewidth=3.2, foreground="black", alpha=0.55), Normal()])


def _smooth_edge(view: View, mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Any]:
    """Coordinates in mm and a finer field, above one half inside: its outline runs between the pixels' centres."""
    padded = np.pad(mask, 1).astype(np.float32)
    sizes = [(length - 1) * _OUTLINE_STEPS + 1 for length in padded.shape]
    field = ndimage.zoom(padded, [size / length for size, length in zip(sizes, padded.shape, strict=True)], order=1)
    y, x = (
        (np.linspace(-1, length - 2, size) + 0.5) * edge
        for length, size, edge in zip(padded.shape, sizes, view.pixel[::-1], strict=True)
    )
    return x, y, field


def _legend(
    figure: Figure,
    views: Sequence[View],
    structures: Mapping[str, int],
    colors: Mapping[str, Color],
    dice: Mapping[str, float],
) -> None:
    """Names, scores and what outline and area mean, below the panels."""
    handles: list[Any] = []
    for name in structures:
        score = dice.get(name)
        words = "" if score is None else "   Dice n/a" if np.isnan(score) else f"   Dice {score:.3f}"
        handles.append(Patch(facecolor=colors[name], label=f"{name}{words}"))
    if any(view.truth is not None for view in views):
        handles.append(Patch(facecolor="none", edgecolor=TEXT, linewidth=1.5, label="outline: truth"))
    if any(view.prediction is not None for view in views):
        handles.append(Patch(facecolor=TEXT, alpha=0.42, label="area: prediction"))
    figure.legend(
        handles=handles, loc="lower center", ncols=min(len(handles), _LEGEND_COLUMNS), frameon=False, fontsize=11,
        labelcolor=TEXT, handlelength=1.1, handleheight=1.0, columnspacing=2.2, borderaxespad=0.25,
    )  # fmt: skip
