"""A cross-validation as a person runs it: folds one after another, each scored by its own weights, and the report."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.integration

SHORT = ["--max-epochs", "2", "--num_workers", "0"]


@pytest.fixture(scope="module")
def cross_validated(trained: Path, phantom_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A bundle whose fold 0 was trained before and whose other folds are trained with --resume; and what was said."""
    from unet_bundle.cli import main

    bundle = Path(shutil.copytree(trained, tmp_path_factory.mktemp("folds") / "bundle"))
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("unet_bundle.cli.train.say", lambda text="": said.append(text))
        arguments = ["train", bundle, phantom_data, "--folds", "all", "--resume", *SHORT]
        assert main([str(argument) for argument in arguments]) == 0
    return bundle, "\n".join(said)


def test_finished_folds_are_skipped_and_the_others_trained(cross_validated: tuple[Path, str], trained: Path) -> None:
    bundle, said = cross_validated
    assert "1 of 3 folds are trained already and skipped." in said
    assert "Folds 1, 2, one after another" in said
    for fold in range(3):
        made = {path.name for path in (bundle / "runs" / f"fold_{fold}").iterdir()}
        assert {"best.pt", "best.json", "last.pt", "curves.csv"} <= made
    for name in ("runs/fold_0/last.pt", "models/model.pt"):
        assert (bundle / name).read_bytes() == (trained / name).read_bytes()


def test_a_fold_in_a_row_is_the_fold_alone(
    cross_validated: tuple[Path, str], cli: Any, tiny_bundle: Path, phantom_data: Path
) -> None:
    cli.unet_bundle("train", tiny_bundle, phantom_data, "--fold", "2", *SHORT).succeeded()
    alone, in_a_row = (
        torch.load(bundle / "runs" / "fold_2" / "last.pt", weights_only=True)["network"]
        for bundle in (tiny_bundle, cross_validated[0])
    )
    assert all(torch.equal(alone[name], in_a_row[name]) for name in alone)


def test_each_fold_is_scored_by_its_own_weights_and_shown(
    cross_validated: tuple[Path, str], cli: Any, phantom_data: Path, tmp_path: Path
) -> None:
    bundle, _ = cross_validated
    done = cli.unet_bundle("evaluate", bundle, phantom_data, "--folds", "all").succeeded()
    gathered = json.loads((bundle / "eval" / "cross_validation.json").read_text())
    names = sorted(name for cases in gathered["cases"].values() for name in cases)
    assert names == [f"phantom_{number:03d}" for number in range(1, 7)], "each case once"
    pooled = gathered["metrics"]["dice"]["pooled"]["lobe"]
    assert f"{pooled['mean']:.4f} ± {pooled['sd']:.4f}" in done.out

    best = bundle / "runs" / "fold_1" / "best.pt"
    single = ["--fold", "1", "--checkpoint", best, "--output-dir", tmp_path / "single"]
    cli.unet_bundle("evaluate", bundle, phantom_data, *single).succeeded()
    expected = json.loads((tmp_path / "single" / "scores.json").read_text())
    assert json.loads((bundle / "eval" / "fold_1" / "scores.json").read_text()) == expected

    cli.unet_bundle("report", bundle, "--output", tmp_path / "report.html").succeeded()
    page = (tmp_path / "report.html").read_text()
    assert all(name in page for name in names)
    assert page.count('<img src="data:image/png;base64,') == 6
    assert not re.search(r'(src|href)="(?!data:|#|https://)', page)


def test_pretrained_weights_are_where_training_starts(
    cross_validated: tuple[Path, str], cli: Any, tiny_bundle: Path, phantom_data: Path
) -> None:
    bundle, _ = cross_validated
    options = ["--pretrained", bundle, "--max_epochs", "1", "--num_workers", "0", "--learning_rate", "1e-9"]
    done = cli.monai_run(tiny_bundle, ["train.json"], "--dataset_dir", phantom_data, *options).succeeded()
    assert "Pretrained models/model.pt: " in done.text
    start, end = (
        torch.load(path, weights_only=True)
        for path in (bundle / "models" / "model.pt", tiny_bundle / "runs" / "fold_0" / "best.pt")
    )
    assert all(np.allclose(start[name].float(), end[name], atol=1e-3) for name in start)
    refused = cli.unet_bundle("train", bundle, phantom_data, "--fold", "1", *options)
    refused.refused("was trained on 2 of the 2 validation cases of this run", status=2)
