"""A contact sheet of a real case, augmented: what elastic deformation, rotation, zoom and mirroring do to it.

    python scripts/show_augmentation.py imagesTr/case.nii.gz --label labelsTr/case.nii.gz --output augmented.png

Lines that were straight and 10 voxels apart in the scan are drawn over it, the label as an outline.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

from unet_bundle.io import LoadImaged
from unet_bundle.transforms import RandSpatiald

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap

LINES_EVERY = 10
KINDS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "elastic": {"elastic_prob": 1.0},
    "rotated": {"rotate_prob": 1.0},
    "zoomed": {"zoom_prob": 1.0},
    "mirrored": {"flip_prob": 1.0},
    "all": {"elastic_prob": 1.0, "rotate_prob": 1.0, "zoom_prob": 1.0, "flip_prob": 0.5},
}


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path, help="a scan, of any format that is read")
    parser.add_argument("--label", type=Path, help="its label map")
    parser.add_argument("--output", type=Path, default=Path("augmented.png"))
    parser.add_argument("--columns", type=int, default=4, help="draws of each kind")
    parser.add_argument("--elastic-sd", type=float, default=2.0, help="mm; of the displacement of control points")
    parser.add_argument("--elastic-spacing", type=float, default=16.0, help="mm between control points")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    scan = read(args.image, args.label)
    spacing = [float(edge) for edge in scan["image"].pixdim[: scan["image"].ndim - 1]]
    scan = {key: torch.as_tensor(value).as_subclass(torch.Tensor) for key, value in scan.items()}
    figure, axes = plt.subplots(len(KINDS), args.columns, figsize=(3 * args.columns, 3 * len(KINDS)), squeeze=False)
    for row, (kind, settings) in zip(axes, KINDS.items(), strict=True):
        draw = transform(scan, spacing, settings, args)
        for column, axis in enumerate(row):
            draw.set_random_state(args.seed + column)
            show(axis, draw(scan))
            axis.set_title(kind if column == 0 else "", loc="left", fontsize=11)
    figure.tight_layout()
    figure.savefig(args.output, dpi=90)


def read(image: Path, label: Path | None) -> dict[str, Any]:
    """The scan, its label map and an image of lines."""
    paths = {"image": str(image), **({"label": str(label)} if label else {})}
    scan: dict[str, Any] = dict(LoadImaged(list(paths))(paths))
    scan["image"] = scan["image"][:1]
    lines = torch.zeros_like(scan["image"])
    for axis, side in enumerate(lines.shape[1:], start=1):
        if side > 1:
            lines.index_fill_(axis, torch.arange(0, side, LINES_EVERY), 1.0)
    if lines.ndim == 4:  # planes of lines would fill the middle slice
        lines = torch.zeros_like(lines)
        lines[:, ::LINES_EVERY], lines[:, :, ::LINES_EVERY] = 1.0, 1.0
    return {**scan, "lines": lines}


def transform(
    scan: dict[str, torch.Tensor], spacing: list[float], settings: dict[str, Any], args: argparse.Namespace
) -> RandSpatiald:
    """The patch transform of the recipe over the whole scan, with only the wanted parts of it."""
    shape = list(scan["image"].shape[1:])
    off = {"elastic_prob": 0.0, "rotate_prob": 0.0, "zoom_prob": 0.0, "flip_prob": 0.0}
    keys = [key for key in ("image", "label", "lines") if key in scan]
    return RandSpatiald(
        keys, shape, mode=["nearest" if key == "label" else "bilinear" for key in keys],
        elastic_sd=args.elastic_sd, elastic_spacing=args.elastic_spacing,
        rotate_range=[30.0] * (3 if len(shape) == 3 else 1), zoom_range=[0.7, 1.4], flip_axes=range(len(shape)),
        spacing=spacing, **{**off, **settings},
    )  # fmt: skip


def show(axis: Any, item: dict[str, torch.Tensor]) -> None:
    """The middle slice with lines and outlines."""
    planes = {key: middle(value).numpy().T for key, value in item.items() if isinstance(value, torch.Tensor)}
    low, high = np.percentile(planes["image"], [1, 99])
    axis.imshow(planes["image"], cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower")
    axis.imshow(np.ma.masked_less(planes["lines"], 0.4), cmap=ListedColormap(["#56b4e9"]), alpha=0.6, origin="lower")
    for value in np.unique(planes.get("label", [])):
        if value:
            axis.contour(planes["label"] == value, levels=[0.5], colors=[plt.cm.Set1(int(value) % 9)], linewidths=1.5)
    axis.set_axis_off()


def middle(volume: torch.Tensor) -> torch.Tensor:
    """The middle slice across the last axis, or the plane itself."""
    return volume[0, ..., volume.shape[-1] // 2] if volume.ndim == 4 else volume[0]


if __name__ == "__main__":
    main()
