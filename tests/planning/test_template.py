import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch
from monai.bundle import ComponentLocator, ConfigParser, ConfigWorkflow
from monai.bundle.reference_resolver import ReferenceResolver

from unet_bundle.planning.card import TaskCard
from unet_bundle.planning.plan import Plan, make_plan
from unet_bundle.planning.template import configs
from unet_bundle.runtime import check_keys

RUNS = {
    "train": ["train.json"],
    "train by torchrun": ["train.json", "multi_gpu_train.json"],
    "inference": ["inference.json"],
    "evaluate": ["inference.json", "evaluate.json"],
    "evaluate by torchrun": ["inference.json", "evaluate.json", "multi_gpu_evaluate.json"],
}


def card(**changes: Any) -> TaskCard:
    values: dict[str, Any] = {
        "name": "test",
        "title": "Test",
        "description": "For a test",
        "authors": "nobody",
        "copyright": "none",
        "data_source": "none",
        "data_license": "none",
        "modality": ["MRI"],
        "labels": {"background": 0, "left": 1, "right": 2},
        "changelog": {"0.1.0": "First"},
    }
    return TaskCard(**{**values, **changes})


def fingerprint(spacing: list[float], shape: list[int], card: TaskCard) -> dict[str, Any]:
    statistics = {
        "percentile_00_5": -50.0, "percentile_99_5": 300.0, "mean": 100.0, "std": 40.0, "median": 90.0,
        "min": -100.0, "max": 500.0,
    }  # fmt: skip
    return {
        "format": 1,
        "spatial_dims": len(shape),
        "num_cases": 40,
        "num_subjects": 40,
        "num_channels": len(card.modality),
        "cases": {"shapes": [shape] * 40, "spacings": [spacing] * 40},
        "orientations": {"RAS": 40},
        "intensities": [statistics] * len(card.modality),
        "labels": {name: {"voxels": 1000, "ml": 1.0} for name in card.labels},
    }


def plan(kind: str) -> Plan:
    if kind == "2D":
        task, spacing, shape = card(), [1.0, 1.0], [256, 256]
    elif kind == "thick slices, CT and MR":
        task, spacing, shape = card(modality=["CT", "MRI"]), [0.8, 0.8, 5.0], [320, 320, 24]
    elif kind == "left and right":
        task, spacing, shape = card(left_right_pairs=[["left", "right"]]), [1.0, 1.0, 1.0], [96, 96, 96]
    else:
        task = card(labels={"background": 0, **{f"organ_{i}": i for i in range(1, 300)}})
        spacing, shape = [3.0, 3.0, 3.0], [64, 64, 64]
    return make_plan(fingerprint(spacing, shape, task), task, "24GB")


KINDS = ("2D", "thick slices, CT and MR", "left and right", "300 classes")


@pytest.fixture(scope="module", params=KINDS)
def any_plan(request: pytest.FixtureRequest) -> Plan:
    """A plan of each kind."""
    return plan(request.param)


def merged(written: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The files of a run laid over each other, as MONAI does."""
    parser = ConfigParser()
    parser.update(ConfigParser.load_config_file([]) if False else {})
    result = ConfigParser({})
    for index, name in enumerate(names):
        content = json.loads(json.dumps(written[name]))
        if index == 0:
            result = ConfigParser(content)
        else:
            result.update(content)
    return result.get()  # type: ignore[no-any-return]


def walk(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, config
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        yield from walk(value, f"{path}::{key}" if path else str(key))
