"""Fingerprints of made-up data sets and small data sets on disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.planning.card import load_card
from unet_bundle.planning.task_card import TaskCard

CT_STATISTICS = {
    "percentile_00_5": -41.0, "percentile_99_5": 176.0, "mean": 99.29, "std": 39.37, "median": 101.0, "min": -200.0,
    "max": 900.0,
}  # fmt: skip


@pytest.fixture(scope="session")
def make_card() -> Callable[..., TaskCard]:
    """A task card as `load_card` makes it from a dataset.json, with fields changed."""

    def make(labels: dict[str, int] | None = None, modality: str = "MRI", **changes: Any) -> TaskCard:
        named = labels or {"background": 0, "organ": 1}
        dataset_json = {
            "name": "Made up",
            "modality": {"0": modality},
            "labels": {str(value): name for name, value in named.items()},
        }
        card = load_card(None, dataset_json)
        return TaskCard(**{**vars(card), **changes})

    return make


@pytest.fixture(scope="session")
def make_fingerprint() -> Callable[..., dict[str, Any]]:
    """The fingerprint of a data set whose scans are all alike, or have the spacings that are given."""

    def make(
        shape: list[int],
        spacing: list[float],
        num_cases: int = 100,
        labels: tuple[str, ...] = ("background", "organ"),
        spacings: list[list[float]] | None = None,
    ) -> dict[str, Any]:
        spacings = spacings or [spacing] * num_cases
        return {
            "format": 1,
            "spatial_dims": len(shape),
            "num_cases": len(spacings),
            "num_subjects": len(spacings),
            "num_channels": 1,
            "cases": {"shapes": [shape] * len(spacings), "spacings": spacings},
            "orientations": {"RAS": len(spacings)},
            "intensities": [CT_STATISTICS],
            "labels": {name: {"cases": len(spacings), "voxels": 1000, "ml": 1.0} for name in labels},
        }

    return make


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Writes a Decathlon folder of small scans with a bright ball as organ; every case has its own noise."""

    def make(
        cases: int = 4,
        shape: tuple[int, int, int] = (12, 14, 10),
        affine: np.ndarray | None = None,
        channels: int = 1,
        change: Callable[[int, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> Path:
        affine = np.diag([2.0, 1.0, 1.5, 1.0]) if affine is None else affine
        listed = []
        for number in range(1, cases + 1):
            rng = np.random.default_rng(number)
            grid = np.indices(shape) - np.reshape([edge / 2 for edge in shape], (3, 1, 1, 1))
            label = (np.linalg.norm(grid, axis=0) < 4).astype(np.uint8)
            image = (100 * label + rng.normal(0, 5, shape)).astype(np.float32)
            if channels > 1:
                image = np.stack([image * (1 + channel) for channel in range(channels)], axis=-1)
            if change is not None:
                image, label = change(number, image, label)
            entry = {"image": f"./imagesTr/case_{number:03d}.nii.gz", "label": f"./labelsTr/case_{number:03d}.nii.gz"}
            for key, array in (("image", image), ("label", label)):
                path = tmp_path / entry[key]
                path.parent.mkdir(exist_ok=True)
                nifti = nib.Nifti1Image(array, affine)
                nifti.set_qform(affine, 1)
                nifti.set_sform(affine, 1)
                nib.save(nifti, path)
            listed.append(entry)
        description = {
            "name": "Balls",
            "modality": {str(channel): "MRI" for channel in range(channels)},
            "labels": {"0": "background", "1": "ball"},
            "training": listed,
        }
        (tmp_path / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
        return tmp_path

    return make
