import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from unet_bundle.errors import InputError
from unet_bundle.evaluation import MeanDice, SaveScores
from unet_bundle.evaluation.scores import describe, dice_table, score_report
from unet_bundle.io import LoadImaged, find_cases

LABELS = {"background": 0, "vessel": 3, "lobe": 1, "bean": 2}
CLASSES = ["lobe", "bean", "vessel"]


def by_definition(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> list[float | None]:
    table: list[float | None] = []
    for c in range(1, num_classes):
        found, true = prediction == c, label == c
        table.append(2 * int((found & true).sum()) / int(found.sum() + true.sum()) if (found | true).any() else None)
    return table


@pytest.mark.parametrize("seed", range(8))
def test_dice_is_the_formula(seed: int):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(3, 40, rng.choice([2, 3])))  # odd and thin shapes, as anisotropic scans have
    classes = int(rng.integers(2, 6))
    label = rng.integers(0, classes, shape)
    prediction = np.where(rng.random(shape) < 0.3, rng.integers(0, classes, shape), label)
    label[label == classes - 1] = seed % 2 * label[label == classes - 1]  # sometimes the last class is absent

    table = dice_table(torch.from_numpy(prediction[None]).float(), torch.from_numpy(label[None]).float(), classes)
    expected = by_definition(prediction, label, classes)
    assert [v is None for v in table] == [v is None for v in expected]
    assert [v for v in table if v is not None] == pytest.approx([v for v in expected if v is not None], abs=1e-6)


def test_absent_classes():
    empty, full = torch.zeros(1, 4, 4, 2), torch.ones(1, 4, 4, 2)
    assert dice_table(empty, empty, 3) == [None, None]
    assert dice_table(full, empty, 3) == [0.0, None]
    assert dice_table(empty, full, 3) == [0.0, None]
    assert dice_table(full, full, 3) == [1.0, None]


def test_means_leave_out_what_was_nowhere_to_be_found():
    rows = {"b": [1.0, None, None], "a": [0.5, 0.25, None]}
    report = score_report(rows, CLASSES)

    assert list(report["cases"]) == ["a", "b"]
    assert report["classes"] == {"lobe": 0.75, "bean": 0.25, "vessel": None}
    assert report["mean"] == 0.5
    assert describe(report) == "lobe 0.7500, bean 0.2500, vessel -, mean 0.5000"
    assert score_report({}, CLASSES)["mean"] is None


# --- the files --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases(phantom_data: Path) -> list[dict[str, MetaTensor]]:
    """Label files as the evaluator has them at the end, and predictions on the scans' grids: labels moved a voxel."""
    loaded = [LoadImaged(["image", "label"])(case) for case in find_cases(phantom_data)[:3]]
    for item in loaded:
        item["pred"] = MetaTensor(torch.roll(item["label"].as_tensor(), 1, dims=1), meta=dict(item["image"].meta))
    loaded[2]["pred"][loaded[2]["pred"] == 3] = 0
    return loaded


def scored(items: list[Any], folder: Path) -> dict[str, Any]:
    """Run an engine over `items`, two a batch, and read scores.json."""
    engine = Engine(lambda _engine, batch: batch)
    SaveScores(LABELS, str(folder)).attach(engine)
    engine.run([items[:2], items[2:]] if len(items) > 2 else [items])
    report: dict[str, Any] = json.loads((folder / "scores.json").read_text())
    return report


def test_both_files_hold_the_dice_of_each_case_and_class(cases, tmp_path):
    report = scored(cases, tmp_path / "eval")

    expected = {
        f"phantom_{i:03d}": by_definition(item["pred"].numpy(), item["label"].numpy(), 4)
        for i, item in enumerate(cases, start=1)
    }
    assert list(report["cases"]) == list(expected)
    for name, values in expected.items():
        assert list(report["cases"][name]) == CLASSES
        assert list(report["cases"][name].values()) == pytest.approx(values, abs=1e-6)
    assert report["cases"]["phantom_003"]["vessel"] == 0.0
    means = np.mean(list(expected.values()), axis=0)
    assert list(report["classes"].values()) == pytest.approx(means, abs=1e-6)
    assert report["mean"] == pytest.approx(means.mean(), abs=1e-6)

    with (tmp_path / "eval" / "scores.csv").open() as file:
        table = list(csv.reader(file))
    assert table[0] == ["case", *CLASSES]
    rows = {**report["cases"], "mean": report["classes"]}
    assert [row[0] for row in table[1:]] == list(rows)
    for name, *values in table[1:]:
        assert [float(v) for v in values] == pytest.approx(list(rows[name].values()), abs=1e-6)
    assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == ["scores.csv", "scores.json"]


def test_the_mean_of_the_run_is_the_mean_of_the_cases(cases):
    engine = Engine(lambda _engine, batch: batch)
    MeanDice(4).attach(engine, "dice")
    engine.run([cases])
    tables = [by_definition(item["pred"].numpy(), item["label"].numpy(), 4) for item in cases]
    assert engine.state.metrics["dice"] == pytest.approx(np.mean(tables), abs=1e-6)


def test_a_second_run_starts_anew(cases, tmp_path):
    engine = Engine(lambda _engine, batch: batch)
    SaveScores(LABELS, str(tmp_path)).attach(engine)
    engine.run([cases[:2]])
    engine.run([cases[2:]])
    assert list(json.loads((tmp_path / "scores.json").read_text())["cases"]) == ["phantom_003"]


def test_what_no_class_can_be_is_empty_in_both_files(cases, tmp_path):
    blank = {key: item.clone() for key, item in cases[0].items()}
    for key in ("label", "pred"):
        blank[key][blank[key] == 3] = 0
    report = scored([blank], tmp_path)
    assert report["cases"]["phantom_001"]["vessel"] is None
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].endswith(",")


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """A function that scores items that must be refused; returns the line."""

    def of(items: list[Any]) -> str:
        with pytest.raises(InputError) as raised:
            scored(items, tmp_path / "eval")
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "eval").exists(), "nothing half-written stays behind"
        return str(raised.value)

    return of


def test_a_label_on_another_grid_is_refused_by_name(cases, refusal):
    pred, label = cases[1]["pred"], cases[1]["label"]
    shifted = label.clone()
    shifted.affine = torch.from_numpy(nib.affines.from_matvec(np.eye(3), [0, 0, 5.0])) @ label.affine
    cropped = MetaTensor(label.as_tensor()[..., :-1], meta=dict(label.meta))

    for other in (shifted, cropped):
        line = refusal([cases[0], {"pred": pred, "label": other}])
        assert line.startswith("phantom_002: image and label are not on one grid: ")


@pytest.mark.parametrize(("value", "shown"), [(7, "7"), (-1, "-1"), (0.5, "0.5")])
def test_a_label_value_that_is_no_class_is_refused_by_name(value, shown, cases, refusal):
    label = cases[1]["label"].clone()
    label[0, 0, 0, 0] = value
    line = refusal([{**cases[1], "label": label}])
    assert line.startswith(f"phantom_002: the label file holds the value {shown}, the classes are 0 to 3")


def test_two_cases_of_one_name_are_refused(cases, refusal):
    assert refusal([cases[0], cases[1], cases[0]]).startswith("Several label files are named phantom_001")


def test_nothing_is_scored_as_not_a_number(cases, tmp_path):
    report = scored(cases, tmp_path)
    assert not any(math.isnan(v) for row in report["cases"].values() for v in row.values())
