"""Make the pictures of the tour, docs/images/tour_*.png, of a demo's own scans and bundle.

    unet-bundle demo --output demo --max-minutes 10
    python scripts/docs_pictures.py demo

The picture of the report needs a browser (Chromium); without one it is left as it is.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from unet_bundle.cli import main as unet_bundle
from unet_bundle.evaluation.curves import training_curves
from unet_bundle.evaluation.picture import overlay_picture
from unet_bundle.evaluation.scores import dice_table
from unet_bundle.evaluation.style import FAINT, TEXT, new_figure, save_png
from unet_bundle.io import LoadImaged
from unet_bundle.predictor import Predictor

WIDTH = 1080
"""Pixels of a picture's width."""
COLOURS = 256
"""Of the palette, chosen to cover all hues: pictures look the same with it, at a third of the size."""
SCREEN = (1200, 860)
"""Of the browser that shows the report."""


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder that `unet-bundle demo` made")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="default: docs/images")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        draw(args.demo, folder)
        for picture in sorted(folder.glob("tour_*.png")):
            shrink(picture, args.output / picture.name)
            print(f"{args.output / picture.name}: {(args.output / picture.name).stat().st_size // 1000} kB")


def draw(demo: Path, folder: Path) -> None:
    """Draw the pictures at full size."""
    bundle, card = demo / "bundle", yaml.safe_load((demo / "card.yaml").read_text(encoding="utf-8"))
    labels: dict[str, int] = card["labels"]
    colors = {name: terms["color"] for name, terms in card["terms"].items()}
    scan = next((demo / "dataset" / "imagesTs").glob("*.nii.gz"))
    truth = demo / "dataset" / "labelsTs" / scan.name
    found = LoadImaged(["image", "label"])({"image": str(scan), "label": str(truth)})
    image, label = found["image"][0].numpy(), found["label"][0].numpy()
    drawing: dict[str, Any] = {"affine": found["image"].affine.numpy(), "colors": colors}

    overlay_picture(image, label, None, labels, folder / "tour_check.png", "A labelled scan", **drawing)
    draw_plan(json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8")), folder / "tour_plan.png")
    draw_curves(bundle, folder / "tour_train.png")

    predicted = Predictor(bundle)(str(scan))
    names = [name for name, value in sorted(labels.items(), key=lambda item: item[1]) if value]
    scores = dict(zip(names, dice_table(predicted, found["label"], len(labels)), strict=True))
    dice = {name: float("nan") if score is None else score for name, score in scores.items()}
    segmented = predicted[0].numpy()
    path = folder / "tour_predict.png"
    overlay_picture(image, label, segmented, labels, path, "A scan the network never saw", dice=dice, **drawing)
    unsure = Predictor(bundle, overrides={"inferer::output": "entropy", "postprocessing::transforms": []})(str(scan))
    draw_unsure(image, segmented, unsure[0].numpy(), {labels[name]: colors[name] for name in names}, folder)
    draw_report(bundle, folder / "tour_report.png")


def draw_plan(config: Mapping[str, Any], path: Path) -> None:
    """The planned network: a box for each stage, as wide as its channels and as high as its map."""
    network, patch = config["network_def"], np.array(config["patch_size"])
    figure = new_figure(12.0, 4.4)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.88))
    axes.set_axis_off()
    shape, places, x = patch.astype(float), [], 0.0
    stages = list(zip(network["channels"], network["strides"], strict=True))
    sizes = []
    for channels, stride in stages:
        shape = shape / np.array(stride)
        sizes.append((channels, shape.copy()))
    order = [*sizes, *sizes[-2::-1]]
    for number, (channels, size) in enumerate(order):
        height, width = float(size.max()) / patch.max() * 10, 0.5 + channels / 120
        is_up = number >= len(sizes)
        box = FancyBboxPatch(
            (x, -height / 2), width, height, boxstyle="round,pad=0.05", facecolor="#5bc0eb" if is_up else "#f2845c"
        )
        axes.add_patch(box)
        shown = " x ".join(f"{edge:g}" for edge in size)
        axes.text(x + width / 2, -height / 2 - 0.5, shown, color=TEXT, ha="center", va="top", fontsize=9)
        axes.text(x + width / 2, -height / 2 - 1.3, f"{channels} maps", color=FAINT, ha="center", va="top", fontsize=9)
        places.append((x, width, height))
        x += width + 1.6
    for left, right in zip(places, reversed(places), strict=True):
        if left[0] < right[0]:
            y = left[2] / 2 - 0.15
            axes.annotate(
                "",
                (right[0] - 0.15, y),
                (left[0] + left[1] + 0.15, y),
                arrowprops={"arrowstyle": "->", "color": FAINT, "linestyle": "--"},
            )
    axes.set_xlim(-0.8, x - 0.8)
    axes.set_ylim(-7.2, 6.2)
    spacing = " x ".join(f"{edge:.3g}" for edge in config["spacing"])
    title = f"Planned: voxels of {spacing} mm, patches of {' x '.join(map(str, patch))}, {config['batch_size']} a step"
    figure.suptitle(title, color=TEXT, fontsize=13)
    save_png(figure, path)


def draw_curves(bundle: Path, path: Path) -> None:
    """Loss and validation score of the training."""
    with (bundle / "runs" / "fold_0" / "curves.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    curves = {
        "training loss": [(float(row["epoch"]), float(row["loss"])) for row in rows],
        "mean": [(float(row["epoch"]), float(row["validation_dice"])) for row in rows if row["validation_dice"]],
    }
    training_curves(curves, path, "Training")


def draw_unsure(
    image: np.ndarray, labels: np.ndarray, entropy: np.ndarray, colors: Mapping[int, Sequence[int]], folder: Path
) -> None:
    """A slice, the labels on it, and how unsure the network is of them."""
    number = int(np.argmax((labels > 0).sum(axis=(0, 1))))
    low, high = np.percentile(image, (1, 99.5))
    grey = np.clip((image[:, :, number].T - low) / (high - low), 0, 1)
    painted = np.repeat(grey[..., None], 3, axis=2)
    for value, color in colors.items():
        inside = value == labels[:, :, number].T
        painted[inside] = 0.45 * painted[inside] + 0.55 * np.array(color) / 255
    figure = new_figure(12.0, 3.8)
    panels = {
        "the scan": (grey, {"cmap": "gray"}),
        "what was found": (painted, {}),
        "how unsure the network is": (entropy[:, :, number].T, {"cmap": "inferno", "vmin": 0}),
    }
    for place, (title, (shown, options)) in enumerate(panels.items()):
        axes = figure.add_axes((0.01 + place * 0.33, 0.02, 0.32, 0.86))
        axes.set_axis_off()
        axes.set_title(title, color=TEXT, fontsize=12)
        axes.imshow(shown, origin="lower", **options)
    save_png(figure, folder / "tour_annotate.png")


def draw_report(bundle: Path, path: Path) -> None:
    """The top of the report, as a browser shows it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        print("no Chromium: the picture of the report stays as it is")
        return
    page = path.with_name("report.html")
    if unet_bundle(["report", str(bundle), "--output", str(page)]) != 0:
        raise SystemExit("the report failed")
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}"]
        flags += [f"--window-size={SCREEN[0]},{SCREEN[1]}", f"--screenshot={path}"]
        subprocess.run([browser, *flags, page.as_uri()], check=True, capture_output=True, timeout=300)  # noqa: S603


def shrink(picture: Path, path: Path) -> None:
    """Write a picture smaller: `WIDTH` wide, with a palette."""
    with Image.open(picture) as full:
        size = (WIDTH, round(full.height * WIDTH / full.width))
        small = full.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
