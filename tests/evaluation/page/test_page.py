"""The report's page: complete in itself, readable by machines and people, and true to the files it is made from."""

import csv
import json
import logging
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from unet_bundle.cli import main
from unet_bundle.errors import ConfigError, InputError
from unet_bundle.evaluation.cross_validation import gather
from unet_bundle.evaluation.metrics import ClassScores
from unet_bundle.evaluation.page import read_content, report_page
from unet_bundle.evaluation.report import score_report
from unet_bundle.evaluation.worst import WorstCases
from unet_bundle.phantom import LABELS, phantom_case

ORGANS = ["lobe", "bean", "vessel"]
VOID = {"meta", "img"}
ODD = 'a<b>&"c'


class Page(HTMLParser):
    """Every element with its attributes and the text of its table cells; fails on tags that do not close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def add_evaluation(folder: Path, dice: dict[str, list[float | None]], **more: Any) -> dict[str, Any]:
    """What `evaluate` writes: a predicted volume is 10 ml in each class and case, a difference 1 ml."""
    rows = {
        case: [ClassScores() if value is None else ClassScores(value, 2.0, value, 1.0, 0.0) for value in values]
        for case, values in dice.items()
    }
    report = score_report(rows, ORGANS, [1.0] * 3, worst_cases=1, **more)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(report))
    with (folder / "volumes.csv").open("w", newline="") as file:
        rows_of_file = [(case, organ, "10.0", "1") for case in dice for organ in ORGANS]
        csv.writer(file).writerows([("case", "label", "volume_ml", "voxels"), *rows_of_file])
    image, label, affine = phantom_case(0, 1)
    worst = WorstCases(LABELS, 1)
    name = report["worst"][0]
    worst.offer(name, 0.0, (image, affine), (label, affine), label)
    worst.draw(folder, report)
    return report


def add_run(bundle: Path, fold: int) -> None:
    path = bundle / "runs" / f"fold_{fold}" / "curves.csv"
    path.parent.mkdir(parents=True)
    lines = [
        "epoch,iteration,seconds,loss,learning_rate,validation_dice",
        "1,3,60.0,1.2,1e-3,",
        "2,6,120.0,0.9,5e-4,0.4",
    ]
    path.write_text("\n".join([*lines, "3,9,30.0,0.8,1e-4,", "4,12,90.0,0.7,0.0,0.6"]) + "\n")  # resumed after epoch 2


@pytest.fixture
def evaluated(tiny_bundle: Path) -> Path:
    """A bundle of one run and one evaluation, with a case of an odd name and one that could not be scored."""
    add_run(tiny_bundle, 0)
    dice = {"good": [0.9, 0.9, 0.8], ODD: [0.2, 0.4, None], "empty": [None, None, None]}
    add_evaluation(tiny_bundle / "eval", dice, missing={"cut": "is <short>"})
    return tiny_bundle


@pytest.fixture
def page_of() -> Callable[[Path], tuple[str, Page]]:
    """A function from a bundle to its page, as text and taken apart."""

    def make(bundle: Path) -> tuple[str, Page]:
        html = report_page(read_content(bundle, bundle / "eval"))
        return html, Page(html)

    return make


def test_the_page_needs_nothing_else(evaluated: Path, page_of: Any) -> None:
    html, page = page_of(evaluated)
    assert not [tag for tag, _ in page.elements if tag in ("script", "link", "iframe", "object")]
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.all("img"))
    assert not re.search(r"url\(|@import", html)
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    anchors = {section["id"] for section in page.all("section")}
    links = [link["href"] or "" for link in page.all("a")]
    assert {link[1:] for link in links if link.startswith("#")} == anchors


def test_what_is_seen_is_also_said(evaluated: Path, page_of: Any) -> None:
    _, page = page_of(evaluated)
    assert len(page.all("img")) == 1
    assert all(image["alt"] for image in page.all("img"))
    charts = page.all("svg")
    assert len(charts) == 1 + 3 + 3, "cases, volumes of three classes, three curves"
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_names_from_files_are_text_and_nothing_else(evaluated: Path, page_of: Any) -> None:
    html, page = page_of(evaluated)
    assert ODD not in html
    assert [ODD, "0.3000"] in [row[:2] for row in page.rows]
    assert ["cut", "is <short>"] in page.rows


def test_cases_stand_worst_first_and_those_without_score_last(evaluated: Path) -> None:
    content = read_content(evaluated, evaluated / "eval")
    assert [case.name for case in content.cases] == [ODD, "good", "empty"]
    assert content.cases[0].picture is not None


def test_true_volumes_are_the_predicted_less_the_difference(evaluated: Path, page_of: Any) -> None:
    content = read_content(evaluated, evaluated / "eval")
    assert content.cases[1].sizes == dict.fromkeys(ORGANS, (10.0, 9.0))
    assert set(content.cases[0].sizes) == {"lobe", "bean"}
    _, page = page_of(evaluated)
    assert ["lobe", "2", "9.000", "+1.000", "0.000", "11.1 %"] in page.rows


def test_the_scores_of_a_class_are_summed_up(evaluated: Path, page_of: Any) -> None:
    _, page = page_of(evaluated)
    assert ["lobe", "2", "0.5500", "0.4950", "0.5500", "0.2000"] in [row[:6] for row in page.rows]
    assert ["vessel", "1", "0.8000", "n/a", "0.8000", "0.8000"] in [row[:6] for row in page.rows]


def test_the_time_of_a_resumed_run_is_that_of_its_parts(evaluated: Path, page_of: Any) -> None:
    _, page = page_of(evaluated)
    assert ["fold 0", "4", "4 min", "0.7000", "0.6000", "4"] in page.rows


def test_the_plan_and_its_reasons_are_those_of_the_documentation(evaluated: Path, page_of: Any) -> None:
    _, page = page_of(evaluated)
    readme = (evaluated / "docs" / "README.md").read_text()
    choices = {row[0]: row for row in page.rows if len(row) == 3}
    assert choices["patch_size"][1] == "[32, 32, 16]"
    assert choices["patch_size"][2] in readme


def test_folds_stand_beside_each_other(tiny_bundle: Path, page_of: Any) -> None:
    reports = {}
    for fold, dice in {0: {"a": [0.5, 0.5, 0.5], "b": [0.7, 0.7, 0.7]}, 2: {"c": [0.9, 0.9, 0.9]}}.items():
        add_run(tiny_bundle, fold)
        reports[fold] = add_evaluation(tiny_bundle / "eval" / f"fold_{fold}", dice)  # type: ignore[arg-type]
    (tiny_bundle / "eval" / "cross_validation.json").write_text(json.dumps(gather(reports)))
    html, page = page_of(tiny_bundle)
    assert ["lobe", "0.6000 ± 0.1414", "0.9000", "0.7000 ± 0.2000"] in page.rows
    assert [row[:2] for row in page.rows if row[0] in "abc"] == [["a", "0"], ["b", "0"], ["c", "2"]]
    assert len(page.all("img")) == 2
    assert html.count('<polyline class="line"') == 2 * 3


def test_scores_older_than_their_weights_are_named(evaluated: Path, page_of: Any) -> None:
    weights = evaluated / "models" / "model.pt"
    weights.write_bytes(b"")
    scored = (evaluated / "eval" / "scores.json").stat().st_mtime
    os.utime(weights, (scored - 60, scored - 60))
    assert "older than the weights" not in page_of(evaluated)[0]
    os.utime(weights, (scored + 60, scored + 60))
    assert "The scores are older than the weights: trained again since?" in page_of(evaluated)[0]


def test_the_fold_whose_scores_are_old_is_named(
    tiny_bundle: Path, page_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="unet_bundle")
    folder = tiny_bundle / "eval"
    reports = {fold: add_evaluation(folder / f"fold_{fold}", {f"case {fold}": [0.9] * 3}) for fold in (0, 2)}
    (folder / "cross_validation.json").write_text(json.dumps(gather(reports)))
    for fold, later in ((0, -60), (2, 60)):
        add_run(tiny_bundle, fold)
        weights = tiny_bundle / "runs" / f"fold_{fold}" / "best.pt"
        weights.write_bytes(b"")
        scored = (folder / f"fold_{fold}" / "scores.json").stat().st_mtime
        os.utime(weights, (scored + later, scored + later))
    assert "The scores of fold 2 are older than the weights" in page_of(tiny_bundle)[0]
    assert main(["report", str(tiny_bundle)]) == 0
    assert "The scores of fold 2 are older than the weights" in caplog.text


def test_a_bundle_without_runs_says_what_to_do(tiny_bundle: Path, page_of: Any) -> None:
    html, page = page_of(tiny_bundle)
    assert "Neither trained nor evaluated yet" in html
    assert [section["id"] for section in page.all("section")] == ["summary", "plan", "about"]


def test_the_same_files_give_the_same_page(evaluated: Path, page_of: Any) -> None:
    assert page_of(evaluated)[0] == page_of(evaluated)[0]


def test_broken_files_are_named(evaluated: Path) -> None:
    with pytest.raises(ConfigError, match="is no bundle"):
        read_content(evaluated / "models", evaluated / "eval")
    for name, content in {"eval/scores.json": "{", "eval/volumes.csv": "case,label\n1,2\n"}.items():
        before = (evaluated / name).read_text()
        (evaluated / name).write_text(content)
        with pytest.raises(InputError, match=name):
            read_content(evaluated, evaluated / "eval")
        (evaluated / name).write_text(before)
    (evaluated / "runs" / "fold_0" / "curves.csv").write_text("epoch,loss\n1,x\n")
    with pytest.raises(InputError, match=r"fold_0/curves.csv"):
        read_content(evaluated, evaluated / "eval")
