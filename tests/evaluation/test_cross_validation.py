"""Scores of folds put together: each case counts once and alike, wherever it stands."""

import csv
import io
import statistics
from typing import Any

import pytest

from unet_bundle.evaluation.cross_validation import as_csv, as_table, gather
from unet_bundle.evaluation.metrics import ClassScores
from unet_bundle.evaluation.report import score_report

CLASSES = ["lobe", "vessel"]
DICE: dict[int, dict[str, list[float | None]]] = {
    0: {"a": [0.9, 0.5], "b": [0.8, None], "c": [0.7, 0.1]},
    2: {"d": [0.2, 0.4]},
}


def report(cases: dict[str, list[float | None]], **more: Any) -> dict[str, Any]:
    rows = {
        case: [ClassScores() if dice is None else ClassScores(dice, 10 * dice, dice, dice - 1, 0.0) for dice in values]
        for case, values in cases.items()
    }
    return score_report(rows, CLASSES, [1.0, 1.0], **more)


@pytest.fixture
def gathered() -> dict[str, Any]:
    return gather({2: report(DICE[2]), 0: report(DICE[0], missing={"broken": "is cut short"})})


def test_a_fold_has_the_means_of_its_own_report(gathered: dict[str, Any]) -> None:
    own = report(DICE[0])
    fold = gathered["metrics"]["dice"]["folds"]["0"]
    assert {name: fold[name]["mean"] for name in CLASSES} == own["classes"]
    assert fold["mean"]["mean"] == own["mean"]


def test_all_cases_count_alike_in_the_whole(gathered: dict[str, Any]) -> None:
    lobe = [0.9, 0.8, 0.7, 0.2]
    pooled = gathered["metrics"]["dice"]["pooled"]
    assert pooled["lobe"] == {"mean": pytest.approx(0.65), "sd": pytest.approx(statistics.stdev(lobe)), "cases": 4}
    assert pooled["vessel"]["cases"] == 3, "a class that is nowhere in a case is no score"
    assert gathered["metrics"]["hd95"]["pooled"]["lobe"]["mean"] == pytest.approx(6.5)


def test_one_case_has_no_deviation(gathered: dict[str, Any]) -> None:
    assert gathered["metrics"]["dice"]["folds"]["2"]["lobe"] == {"mean": 0.2, "sd": None, "cases": 1}
    assert gathered["missing"] == {"0": {"broken": "is cut short"}}
    assert gathered["cases"] == {"0": ["a", "b", "c"], "2": ["d"]}


def test_the_csv_has_every_figure(gathered: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(gathered))))
    assert [(row["fold"], row["class"]) for row in rows] == [
        (fold, name) for fold in ("0", "2", "all") for name in (*CLASSES, "mean")
    ]
    whole = rows[-3]
    assert float(whole["dice_mean"]) == pytest.approx(0.65)
    assert float(whole["hd95_mm_sd"]) == pytest.approx(10 * float(whole["dice_sd"]), abs=1e-5)
    assert rows[3]["dice_sd"] == ""


def test_the_table_has_a_column_a_fold_and_one_for_all(gathered: dict[str, Any]) -> None:
    head, lobe, *_ = as_table(gathered)
    assert [word.strip() for word in head.split("  ") if word.strip()] == ["fold 0 (3)", "fold 2 (1)", "all (4)"]
    assert lobe.split() == ["lobe", "0.8000", "±", "0.1000", "0.2000", "0.6500", "±", "0.3109"]
