"""A data set whose label files number its objects, from the card to results and scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from unet_bundle.cli import main
from unet_bundle.io import LoadImaged
from unet_bundle.predictor import Predictor
from unet_bundle.transforms.instances import number_objects, seams

CARD = {
    "name": "cells",
    "modality": ["microscopy"],
    "labels": {"background": 0, "cell": 1},
    "label_values": {"cell": "1-65535"},
    "instances": True,
    "border_weight": {"w0": 10, "sigma": 3},
    "folds": 2,
    "overrides": {
        "patch_size": [32, 32],
        "batch_size": 2,
        "network": {"channels": [4, 8, 8, 8]},
        "iterations_per_epoch": 2,
        "max_epochs": 2,
        "val_interval": 1,
        "num_workers": 0,
    },
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of bright cells, two of which touch, beside their card."""
    folder = tmp_path_factory.mktemp("cells")
    draw = np.random.default_rng(0)
    for part in ("data/images", "data/labels"):
        (folder / part).mkdir(parents=True)
    for number in range(4):
        labels = np.zeros((64, 48), np.uint16)
        labels[8:20, 8:20], labels[20:30, 8:20], labels[40:52, 26:40] = 5, 900, 33
        picture = (draw.random(labels.shape) * 60 + 150 * (labels > 0)).astype(np.uint8)
        Image.fromarray(picture).save(folder / "data" / "images" / f"cell{number}.png")
        Image.fromarray(labels).save(folder / "data" / "labels" / f"cell{number}.png")
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    data, bundle = str(folder / "data"), str(folder / "bundle")
    assert main(["plan", data, "--output", bundle, "--card", str(folder / "card.yaml")]) == 0
    assert main(["train", bundle, data]) == 0
    return folder


def test_numbered_objects_are_written_and_scored(cells, capsys, tmp_path):
    assert main(["evaluate", str(cells / "bundle"), str(cells / "data"), "--output-dir", str(tmp_path)]) == 0
    assert "Objects: AP " in capsys.readouterr().out
    objects = json.loads((tmp_path / "scores.json").read_text())["objects"]
    assert len(objects["cases"]) == 2
    assert objects["total"]["true"] == 6
    for name, scores in objects["cases"].items():
        with Image.open(tmp_path / f"{name}_instances.png") as picture:
            assert picture.mode == "I;16"
            numbers = np.asarray(picture)
        with Image.open(tmp_path / f"{name}_seg.png") as picture:
            assert np.array_equal(np.asarray(picture) > 0, numbers > 0)
        assert numbers.max() == scores["found"]
    labels = Predictor(cells / "bundle")(cells / "data" / "images" / "cell0.png")
    assert set(labels.unique().tolist()) <= {0, 1}, "classes, as with every bundle"


def test_training_sees_objects_apart_and_the_weight_of_the_seam(cells):
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(cells / "bundle" / "configs" / "train.json"))
    steps = parser.get_parsed_content("train::deterministic_transforms")
    assert isinstance(steps[0], LoadImaged)
    item = {key: str(cells / "data" / f"{key}s" / "cell0.png") for key in ("image", "label")}
    for step in steps:
        item = step(item)
    label, weights = item["label"][0], item["label_weight"][0]
    assert set(label.unique().tolist()) == {0, 1}
    assert number_objects(label.numpy().astype(np.int32)).max() == 3
    assert not seams(label.numpy().astype(np.int32)).any()
    seam = weights.numpy()[label.numpy() == 0].max()
    assert seam == pytest.approx(1 + 10 * np.exp(-((1 + 2) ** 2) / (2 * 3**2)), abs=1e-4)
    assert torch.equal(weights[label == 1], torch.ones(int((label == 1).sum())))
