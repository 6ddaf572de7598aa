"""The curves of a training as one picture: losses on the left, validation scores on the right."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from unet_bundle.evaluation.style import BACKGROUND, FAINT, TEXT, WIDTH, colors_by_name, new_figure, save_png

Points = Sequence[tuple[float, float]]

_FEW = 20  # points that are marked one by one


def training_curves(
    scalars: Mapping[str, Points],
    path: Path,
    title: str = "",
    *,
    colors: Mapping[str, Sequence[int]] | None = None,
    x_label: str = "epoch",
) -> Path:
    """Draw the losses of a training on the left and its validation scores on the right, as a PNG.

    Args:
        scalars: points (step, value) by name; a name with "loss" in it goes to the left, any other is a score from 0
            to 1. A score whose name has "mean" in it is drawn boldly.
        path: PNG file to write; its folder is made if missing.
        title: a line above the curves.
        colors: red, green and blue (0 to 255) by name; the others get colours of their own.
        x_label: what the steps count.

    Returns:
        `path`.
    """
    losses = {name: points for name, points in scalars.items() if "loss" in name.lower()}
    scores = {name: points for name, points in scalars.items() if name not in losses}
    figure = new_figure(WIDTH, 4.4)
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    for axes, curves, name in ((left, losses, "loss"), (right, scores, "validation Dice")):
        palette = colors_by_name(curves, colors)
        for curve, points in curves.items():
            steps, values = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
            bold = "mean" in curve.lower() and not (colors and curve in colors)
            color = TEXT if bold else palette[curve]
            words = f"{curve}  {values[-1]:.3f}" if values.size else curve
            if len(values) <= _FEW:
                axes.plot(steps, values, color=color, linewidth=2.6 if bold else 1.6, marker="o", ms=3.5, label=words)
            elif axes is left:
                axes.plot(steps, values, color=color, linewidth=1, alpha=0.35)
                axes.plot(steps, _running_mean(values), color=color, linewidth=2, label=words)
            else:
                axes.plot(steps, values, color=color, linewidth=2.6 if bold else 1.6, label=words)
        _style_axes(axes, name, x_label, bool(curves))
    if scores:
        lowest = min((value for points in scores.values() for _, value in points), default=0.0)
        right.set_ylim(max(0.0, min(0.8, lowest - 0.05)) if lowest > 0.3 else 0.0, 1.0)
    if title:
        figure.suptitle(title, color=TEXT, fontsize=15, x=0.01, ha="left")
    save_png(figure, path)
    return path


def _running_mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over a twentieth of the curve around each point, shorter at the ends."""
    half = max(len(values) // 40, 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    means: npt.NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return means


def _style_axes(axes: Axes, name: str, x_label: str, has_curves: bool) -> None:
    axes.set_facecolor(BACKGROUND)
    axes.set_title(name, color=TEXT, fontsize=12, loc="left")
    axes.set_xlabel(x_label, color=FAINT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(colors=FAINT)
    axes.grid(color=FAINT, alpha=0.18, linewidth=0.8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
    if has_curves:
        axes.legend(frameon=False, labelcolor=TEXT, fontsize=10)
    else:
        axes.text(0.5, 0.5, "nothing recorded", color=FAINT, ha="center", transform=axes.transAxes)
