"""The documentation of a bundle that was imported from nnU-Net: where it comes from, and how to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unet_bundle.planning.docs import CITATIONS, NOTICE, markdown_table
from unet_bundle.planning.label_rules import BACKGROUND
from unet_bundle.planning.model import Model
from unet_bundle.planning.task_card import TaskCard


def imported_readme(
    model: Model, card: TaskCard, origin: Mapping[str, str], regions: Sequence[int], ensemble: Sequence[str]
) -> str:
    """The text of the bundle's ``docs/README.md``; pure, the same bytes every time.

    Args:
        model: what was imported.
        card: its names.
        origin: where it comes from: names of things to text.
        regions: value of each region; empty for classes.
        ensemble: files of weights whose scores are averaged; empty for one.
    """
    rows = [[str(value), name] for name, value in model.labels.items() if name != BACKGROUND]
    pictures = model.unit == "pixels"
    return (
        "\n\n".join(
            [
                f"# {card.title}\n\n{card.description}\n\n**{NOTICE}**",
                "## Where it comes from\n\nImported by `unet-bundle import-nnunet`; the weights are nnU-Net's, in"
                " float32, their spatial axes in the order of the files'.\n\n"
                + markdown_table(["nnU-Net", "name"], [[key, f"`{value}`"] for key, value in origin.items()]),
                f"## What it segments\n\nInput: {', '.join(model.modality)}. Output: one label map on the"
                f" {'picture' if pictures else 'scan'}'s own grid, 0 for background.\n\n"
                + markdown_table(["value", "label"], rows)
                + _regions(regions),
                _orientation(model),
                _weights(ensemble),
                _commands(pictures=pictures),
                f"## Attribution\n\nCite nnU-Net, and what the makers of the model ask for.\n\n{CITATIONS}",
            ]
        )
        + "\n"
    )


def _regions(regions: Sequence[int]) -> str:
    if not regions:
        return ""
    return (
        "\n\nThe network was trained on regions that overlap (see `channel_def` in `configs/metadata.json`); they are"
        f" written over each other with the values {', '.join(map(str, regions))}, in this order."
    )


def _orientation(model: Model) -> str:
    if model.unit == "pixels":
        return "## Orientation\n\nPictures are seen as they are."
    if model.orientation is not None:
        return (
            f"## Orientation\n\nScans are turned to {model.orientation} before the network sees them, and the result"
            " lies on the scan's own grid."
        )
    return (
        "## Orientation\n\nnnU-Net sees scans with the axes that their files have, and does not say which those were in"
        " training: so does this bundle (`orientation` is null). Give it scans with the same axes; or, if they are"
        " known, set `orientation` in `configs/inference.json`, such as to `LPS`, and every scan is turned to them. A"
        " DICOM series has the axes of its slices, which are not those of most NIfTI files."
    )


def _weights(ensemble: Sequence[str]) -> str:
    folds = "one set of weights" if not ensemble else f"{len(ensemble)} folds, whose scores are averaged (`ensemble`)"
    return (
        f"## Weights\n\n{folds[0].upper()}{folds[1:]}. `mirroring: true` adds nnU-Net's test-time mirroring along"
        " `mirror_axes`, which nnU-Net does by default; it takes 2 to 8 times as long."
    )


def _commands(*, pictures: bool) -> str:
    images = "PNG or TIFF pictures" if pictures else "scans"
    run = "python -m monai.bundle run --config_file"
    evaluate = "\"['configs/inference.json','configs/evaluate.json']\""
    return f"""\
## Commands

Run from the bundle's folder, with `unet-bundle` installed. `SCANS` is a folder of {images}, `DATASET` one of labelled
ones, `OUT` a folder to write to.

    {run} configs/inference.json --bundle_root . --dataset_dir SCANS --output_dir OUT
    {run} {evaluate} --bundle_root . --dataset_dir DATASET --output_dir OUT"""
