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

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.evaluation import MeanDice, SaveScores
from unet_bundle.evaluation.metrics import ClassScores, case_scores
from unet_bundle.evaluation.report import as_table, describe, describe_objects, score_report
from unet_bundle.evaluation.scores import dice_table
from unet_bundle.io import LoadImaged, find_cases
from unet_bundle.transforms import region_masks

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


ABSENT = ClassScores()


def test_means_leave_out_what_was_nowhere_to_be_found():
    rows = {
        "b": [ClassScores(1.0, 2.0, 1.0, 0.5, 0.0), ABSENT, ABSENT],
        "a": [ClassScores(0.5, 4.0, 0.5, -0.25, 0.0), ClassScores(0.0, 99.0, 0.0, -3.0, 1.0), ABSENT],
    }
    report = score_report(rows, CLASSES, [1.0, 2.0, 1.0])

    assert list(report["cases"]) == ["a", "b"]
    assert report["classes"] == {"lobe": 0.75, "bean": 0.0, "vessel": None}
    assert report["mean"] == 0.375
    assert report["metrics"]["hd95"]["classes"] == {"lobe": 3.0, "bean": 99.0, "vessel": None}
    assert report["metrics"]["surface_dice"]["tolerance_mm"] == {"lobe": 1.0, "bean": 2.0, "vessel": 1.0}
    assert report["metrics"]["volume_difference"]["classes"]["lobe"] == 0.125
    assert report["one_sided"] == {"lobe": 0, "bean": 1, "vessel": 0}
    assert report["worst"] == ["a", "b"]
    assert describe(report) == "lobe 0.7500, bean 0.0000, vessel -, mean 0.3750"
    assert [line.split() for line in as_table(report)[1:]] == [
        ["lobe", "0.7500", "3.00", "0.7500", "+0.12"],
        ["bean", "0.0000", "99.00", "0.0000", "-3.00"],
        ["vessel", "-", "-", "-", "-"],
        ["mean", "0.3750", "51.00", "0.3750", "-1.44"],
    ]
    assert len({len(line) for line in as_table(report)}) == 1, "columns are aligned"
    assert score_report({}, CLASSES, [1.0] * 3)["mean"] is None


def test_objects_are_in_both_files_and_in_the_line(tmp_path):
    """Two cases: found as they are; two that touch found as one."""
    label = MetaTensor(torch.zeros(1, 12, 12), affine=torch.eye(3))
    label[:, 2:6, 2:10], label[:, 6:10, 2:10] = 41, 700
    classes = MetaTensor((label > 0).as_tensor().float(), meta=label.meta)
    items = []
    for name, instances in (("a.png", label), ("b.png", classes)):
        pred = MetaTensor(classes.as_tensor(), meta={**label.meta, "filename_or_obj": name})
        items.append({"label": classes, "pred": pred, "label_objects": label, "instances": instances.int()})
    engine = Engine(lambda _engine, batch: batch)
    SaveScores({"background": 0, "cell": 1}, str(tmp_path), objects=True).attach(engine)
    engine.run([items])
    report = json.loads((tmp_path / "scores.json").read_text())
    objects = report["objects"]
    assert objects["cases"]["a"] == {
        "ap": 1.0, "ap50": 1.0, "ap75": 1.0, "seg": 1.0, "aji": 1.0, "merged": 0.0, "true": 2.0, "found": 2.0,
    }  # fmt: skip
    assert objects["cases"]["b"]["ap"] == 0.0
    assert objects["mean"]["seg"] == 0.75
    assert objects["total"] == {"merged": 1, "true": 4, "found": 3}
    assert set(objects["definitions"]) == set(objects["mean"])
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert float(rows["b"]["objects_merged"]) == 1
    assert float(rows["mean"]["objects_ap"]) == 0.5
    assert describe_objects(report) == (
        "AP 0.5000, AP at IoU 0.5 0.5000, SEG 0.7500, AJI 0.7500; 3 found, 4 true, 1 merged from several"
    )


# --- the files --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases(phantom_data: Path) -> list[dict[str, MetaTensor]]:
    """Label files as the evaluator has them at the end, and predictions on the scans' grids: labels moved a voxel."""
    loaded = [LoadImaged(["image", "label"])(case) for case in find_cases(phantom_data)[:3]]
    for item in loaded:
        item["pred"] = MetaTensor(torch.roll(item["label"].as_tensor(), 1, dims=1), meta=dict(item["image"].meta))
    loaded[2]["pred"][loaded[2]["pred"] == 3] = 0
    return loaded


def scored(items: list[Any], folder: Path, **options: Any) -> dict[str, Any]:
    """Run an engine over `items`, two a batch, and read scores.json."""
    engine = Engine(lambda _engine, batch: batch)
    SaveScores(LABELS, str(folder), **options).attach(engine)
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
    tables = [report, *(report["metrics"][key] for key in ("hd95", "surface_dice", "volume_difference"))]
    endings = ["", "_hd95_mm", "_surface_dice", "_volume_difference_ml"]
    assert table[0] == ["case", *(f"{name}{ending}" for ending in endings for name in CLASSES)]
    assert [row[0] for row in table[1:]] == [*report["cases"], "mean"]
    for name, *values in table[1:]:
        rows = [kind["classes"] if name == "mean" else kind["cases"][name] for kind in tables]
        assert [float(v) for v in values] == pytest.approx([row[c] for row in rows for c in CLASSES], abs=1e-6)
    assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == ["scores.csv", "scores.json"]


def test_distances_are_in_mm_of_the_label_file(cases, tmp_path):
    report = scored(cases, tmp_path, surface_tolerance={"bean": 2.5})
    for item, name in zip(cases, report["cases"], strict=True):
        prediction, label = (item[key][0].numpy().astype(np.int32) for key in ("pred", "label"))
        expected = case_scores(prediction, label, 4, item["label"].affine.numpy(), [1.0, 2.5, 1.0])
        for key in ("hd95", "surface_dice", "volume_difference"):
            values = list(report["metrics"][key]["cases"][name].values())
            assert values == pytest.approx([getattr(row, key) for row in expected])
    assert report["one_sided"] == {"lobe": 0, "bean": 0, "vessel": 1}


@pytest.mark.parametrize(("ending", "length", "size"), [("nii", "mm", "mm2"), ("png", "px", "px")])
def test_planes_are_scored_as_areas_in_their_unit(ending, length, size, tmp_path):
    affine = np.diag([0.5, 2.0, 1.0]) if ending == "nii" else np.eye(3)
    label = torch.zeros(1, 20, 20)
    label[:, 5:10, 5:10] = 1
    items = {"label": label, "pred": torch.roll(label, 1, dims=2) + torch.roll(label, 9, dims=1)}
    meta = {"filename_or_obj": f"cell.{ending}"}
    case = {key: MetaTensor(value.clamp(max=1), affine=affine, meta=dict(meta)) for key, value in items.items()}
    report = scored([case], tmp_path)
    assert report["metrics"]["hd95"]["unit"] == length
    assert f"tolerance_{length}" in report["metrics"]["surface_dice"]
    assert report["metrics"]["volume_difference"]["unit"] == size
    assert report["metrics"]["volume_difference"]["cases"]["cell"]["lobe"] == pytest.approx(25)  # voxels of area 1
    assert f"lobe_area_difference_{size}" in (tmp_path / "scores.csv").read_text()
    assert f"HD95 ({length})" in as_table(report)[0]


def test_volumes_and_pictures_make_no_common_figures(cases, tmp_path):
    flat = {key: MetaTensor(cases[0][key][..., 5].as_tensor(), affine=np.eye(3)) for key in ("label", "pred")}
    flat["pred"].meta["filename_or_obj"] = "cell.png"
    with pytest.raises(InputError, match="volumes in ml and areas in px"):
        scored([cases[0], flat], tmp_path)


def test_cases_are_named_after_their_scans(cases, tmp_path):
    label = cases[0]["label"].clone()
    label.meta["filename_or_obj"] = "elsewhere/phantom_001_manual.nii.gz"
    assert list(scored([{**cases[0], "label": label}], tmp_path)["cases"]) == ["phantom_001"]


def test_the_worst_cases_are_drawn_and_older_pictures_go(cases, tmp_path):
    former = {"worst": ["x", "y", "of_before"]}
    (tmp_path / "scores.json").write_text(json.dumps(former))
    (tmp_path / "worst_3_of_before.png").touch()
    (tmp_path / "worst_1_patient.png").touch()  # the prediction of a case of that name
    report = scored(cases, tmp_path, worst_cases=2)
    means = {name: np.mean(list(values.values())) for name, values in report["cases"].items()}
    assert report["worst"] == sorted(means, key=means.__getitem__)[:2]
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    drawn = [f"worst_{rank}_{name}.png" for rank, name in enumerate(report["worst"], start=1)]
    assert pictures == sorted([*drawn, "worst_1_patient.png"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worst_cases": -1}, "worst_cases is -1"),
        ({"surface_tolerance": {"lob": 1.0}}, "'lob', which is no class"),
        ({"surface_tolerance": -1.0}, "is -1.0: give a length in mm"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        SaveScores(LABELS, str(tmp_path), **options)


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


# --- unlabelled voxels and regions ------------------------------------------------------------------------------

REGIONS = {"organs": [1, 2], "bean": [2], "vessel": [3]}


def sparse(item: dict[str, MetaTensor], step: int = 3, value: int = 4) -> MetaTensor:
    """The label of a case with one slice in `step` labelled."""
    label = item["label"].clone()
    label[..., [i for i in range(label.shape[-1]) if i % step]] = value
    return label


def test_what_is_predicted_where_nobody_labelled_counts_nowhere(cases, tmp_path):
    label = sparse(cases[0])
    ignored = label.as_tensor() == 4
    other = cases[0]["pred"].clone()
    other[ignored] = 3
    reports = [
        scored([{**cases[0], "label": label, "pred": pred}], tmp_path / str(number), ignore_index=4, worst_cases=1)
        for number, pred in enumerate((cases[0]["pred"], other))
    ]
    assert reports[0] == reports[1]
    counted = ~ignored.numpy()
    expected = by_definition(cases[0]["pred"].numpy()[counted][None], label.numpy()[counted][None], 4)
    assert list(reports[0]["cases"]["phantom_001"].values()) == pytest.approx(expected, abs=1e-6)
    assert (tmp_path / "0" / "worst_1_phantom_001.png").read_bytes() == (
        tmp_path / "1" / "worst_1_phantom_001.png"
    ).read_bytes()


def test_surfaces_of_labelled_slices_are_their_outlines():
    """One slice in three is labelled: distances are those of the slices by themselves, not of their faces."""
    label = np.zeros((20, 20, 9), np.uint16)
    label[5:15, 5:15] = 1
    prediction = np.zeros_like(label)
    prediction[7:15, 5:15] = 1
    counted = np.zeros(label.shape, dtype=bool)
    counted[..., 1::3] = True
    (in_slices,) = case_scores(prediction, label, 2, np.eye(4), counted=counted)
    (plane,) = case_scores(prediction[..., 0], label[..., 0], 2, np.eye(4))
    assert in_slices.hd95 == pytest.approx(plane.hd95)
    assert in_slices.surface_dice == pytest.approx(plane.surface_dice)
    assert in_slices.volume_difference == pytest.approx(-3 * 20 / 1000)


def test_a_surface_that_nobody_labelled_has_no_distance():
    label = np.ones((8, 8, 8), np.uint16)
    counted = np.zeros(label.shape, dtype=bool)
    counted[2:6, 2:6, 2:6] = True
    (scores,) = case_scores(np.roll(label, 0), label, 2, np.eye(4), counted=counted)
    assert scores == ClassScores(dice=1.0, hd95=None, surface_dice=None, volume_difference=0.0, one_sided=0.0)


def test_regions_are_scored_against_the_label_file(cases, tmp_path):
    report = scored(cases, tmp_path / "labels", regions=REGIONS, surface_tolerance={"organs": 2.0})
    for name, item in zip(report["cases"], cases, strict=True):
        pred, label = item["pred"].numpy(), item["label"].numpy()
        for region, values in REGIONS.items():
            (expected,) = by_definition(np.isin(pred, values), np.isin(label, values), 2)
            assert report["cases"][name][region] == pytest.approx(expected, abs=1e-6)
    assert report["metrics"]["surface_dice"]["tolerance_mm"] == {"organs": 2.0, "bean": 1.0, "vessel": 1.0}

    channels = [
        {**item, "pred": MetaTensor(region_masks(item["pred"].as_tensor(), REGIONS), meta=dict(item["pred"].meta))}
        for item in cases
    ]
    assert scored(channels, tmp_path / "channels", regions=REGIONS, surface_tolerance={"organs": 2.0}) == report


def test_the_mean_of_the_run_leaves_out_unlabelled_voxels_and_takes_regions(cases):
    items = [{**item, "label": sparse(item)} for item in cases]
    for options, parts in (({}, {"lobe": [1], "bean": [2], "vessel": [3]}), ({"regions": REGIONS}, REGIONS)):
        engine = Engine(lambda _engine, batch: batch)
        MeanDice(4, ignore_index=4, **options).attach(engine, "dice")
        engine.run([items])
        expected = []
        for item in items:
            counted = item["label"].numpy() != 4
            pred, label = (item[key].numpy()[counted][None] for key in ("pred", "label"))
            expected += [by_definition(np.isin(pred, part), np.isin(label, part), 2)[0] for part in parts.values()]
        assert engine.state.metrics["dice"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_case_that_nobody_labelled_has_no_scores(cases, tmp_path):
    label = torch.full_like(cases[0]["label"], 4)
    report = scored([{**cases[0], "label": label}, cases[1]], tmp_path, ignore_index=4)
    assert report["cases"]["phantom_001"] == dict.fromkeys(CLASSES)
    assert report["classes"] == report["cases"]["phantom_002"]


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
    assert refusal([cases[0], cases[1], cases[0]]).startswith("Several scans are named phantom_001")


def test_nothing_is_scored_as_not_a_number(cases, tmp_path):
    report = scored(cases, tmp_path)
    assert not any(math.isnan(v) for row in report["cases"].values() for v in row.values())


def test_one_region_at_a_time_is_held(cases, tmp_path, monkeypatch):
    from unet_bundle.evaluation import scores

    held = []
    monkeypatch.setattr(
        scores, "region_masks", lambda label, regions: held.append(len(regions)) or region_masks(label, regions)
    )
    scored(cases, tmp_path, regions=REGIONS)
    assert set(held) == {1}
