"""`--folds` of train, evaluate and predict: which folds are meant, and what is refused before anything is run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from unet_bundle.cli import main
from unet_bundle.cli.folds import folds_of, number_of_folds
from unet_bundle.cli.workflow import load_workflow
from unet_bundle.errors import ConfigError
from unet_bundle.runtime import our_error
from unet_bundle.training.run_state import STATE_KEYS
from unet_bundle.training.trained_cases import write_trained_cases


def refusal(arguments: list[str | Path], capsys: pytest.CaptureFixture[str], status: int = 2) -> str:
    assert main([str(argument) for argument in arguments]) == status
    return capsys.readouterr().err.rstrip().splitlines()[-1]


def add_weights(bundle: Path, weights: Path, fold: int, *seen: str) -> None:
    """A run of a fold, whose weights were trained on these cases."""
    folder = bundle / "runs" / f"fold_{fold}"
    folder.mkdir(parents=True)
    shutil.copy(weights, folder / "best.pt")
    write_trained_cases(folder / "best.pt", fold, [{"image": f"{name}.nii.gz"} for name in seen])


@pytest.mark.parametrize(("wanted", "folds"), [("all", [0, 1, 2]), ("2", [2]), ("2,0,2", [0, 2])])
def test_folds_are_named_by_all_or_by_number(wanted: str, folds: list[int], tiny_bundle: Path) -> None:
    assert folds_of(tiny_bundle, wanted) == folds


@pytest.mark.parametrize("wanted", ["some", "3", "-1", "0,", "0-2"])
def test_folds_that_are_none_are_refused(wanted: str, tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="--folds"):
        folds_of(tiny_bundle, wanted)


def test_a_splits_file_says_how_many_folds_there_are(tiny_bundle: Path) -> None:
    path = tiny_bundle / "configs" / "train.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "splits_file": "$@bundle_root + '/configs/splits.json'"})
    )
    (tiny_bundle / "configs" / "splits.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}] * 2))
    assert number_of_folds(tiny_bundle) == 2
    (tiny_bundle / "other.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}] * 4))
    assert number_of_folds(tiny_bundle, ["--splits_file", str(tiny_bundle / "other.json")]) == 4


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_one_fold_and_several_are_not_both_meant(
    verb: str, tiny_bundle: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = refusal([verb, tiny_bundle, phantom_data, "--fold", "1", "--folds", "all"], capsys)
    assert "--fold and --folds" in words


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--output_dir", "somewhere"],
        ["evaluate", "--checkpoint", "model.pt"],
        ["evaluate", "--ensemble", "[runs/fold_0/best.pt]"],
        ["evaluate", "--part", "all"],
        ["evaluate", "--choose-cleaning"],
    ],
)
def test_what_must_not_be_the_same_for_all_folds_is_refused(
    arguments: list[str], tiny_bundle: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *others = arguments
    assert others[0] in refusal([verb, tiny_bundle, phantom_data, "--folds", "all", *others], capsys)
    assert not (tiny_bundle / "runs").exists()


def test_the_minutes_of_all_folds_are_said_first(
    tiny_bundle: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", tiny_bundle, phantom_data, "--folds", "0,2", "--max-minutes", "7", "--dry-run"]
    assert main([str(argument) for argument in arguments]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "Folds 0, 2, one after another, 7 minutes each: 14 minutes in all" in first
    assert not (tiny_bundle / "runs").exists()


def test_cases_are_never_scored_by_weights_that_saw_them(
    bundle: Path, tiny_weights: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = [f"phantom_{number:03d}" for number in range(1, 7)]
    add_weights(bundle, tiny_weights, 0, *everything)
    words = refusal(["evaluate", bundle, phantom_data, "--folds", "0"], capsys)
    assert "fold_0/best.pt was trained on 2 of the 2 validation cases of fold 0" in words


def test_folds_without_weights_of_known_cases_are_named_and_the_others_scored(
    bundle: Path, tiny_weights: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_weights(bundle, tiny_weights, 0)
    add_weights(bundle, tiny_weights, 1)
    (bundle / "runs" / "fold_0" / "best.json").unlink()
    path = bundle / "configs" / "inference.json"  # a bundle that averages folds would score cases it saw
    path.write_text(json.dumps({**json.loads(path.read_text()), "ensemble": ["runs/fold_0/best.pt"]}))
    assert main(["evaluate", str(bundle), str(phantom_data), "--folds", "all"]) == 1
    *_, first, second = capsys.readouterr().out.rstrip().splitlines()
    assert first.startswith("  failed: fold 0: nothing is known of the cases")
    assert "fold 2: fold_2/best.pt is missing: train it first" in second
    gathered = json.loads((bundle / "eval" / "cross_validation.json").read_text())
    assert list(gathered["cases"]) == ["1"]
    assert gathered["unfinished"] == []
    assert len(gathered["cases"]["1"]) == 2
    assert (bundle / "eval" / "fold_1" / "scores.csv").is_file()


def test_an_average_is_not_scored_on_cases_that_one_of_it_saw(
    bundle: Path, tiny_weights: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_weights(bundle, tiny_weights, 0)
    add_weights(bundle, tiny_weights, 1, "phantom_003", "phantom_006")
    averaged = ["evaluate", bundle, phantom_data, "--ensemble", "[runs/fold_0/best.pt, runs/fold_1/best.pt]"]
    assert "fold_1/best.pt was trained on 2 of the 2 validation cases of fold 0" in refusal(averaged, capsys)
    assert not (bundle / "eval").exists()


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ({}, "model.pt"),
        ({"ensemble": ["runs/fold_0/best.pt"]}, None),
        ({"ensemble": ["runs/fold_0/best.pt", "runs/fold_1/best.pt"]}, "fold_1/best.pt"),
        ({"ensemble": "$['runs/fold_' + str(@fold + 1) + '/best.pt']"}, "fold_1/best.pt"),
        ({"ensemble": "$[]"}, "model.pt"),
        ({"checkpoint": "$@bundle_root + '/runs/fold_0/best.pt'"}, None),
        ({"checkpoint": "$@bundle_root + '/runs/fold_1/best.pt'"}, "fold_1/best.pt"),
        ({"ensemble": ["runs/fold_1/best.pt"], "part": "all"}, None),
        ({"ensemble": ["runs/fold_1/best.pt"], "part": "all", "choose_cleaning": True}, "fold_1/best.pt"),
    ],
)
def test_the_config_refuses_by_itself_what_runs_and_saw_the_cases(
    values: dict[str, Any], seen: str | None, bundle: Path, tiny_weights: Path, phantom_data: Path
) -> None:
    """As a host builds it that knows nothing of our command line."""
    add_weights(bundle, tiny_weights, 0, "elsewhere")
    add_weights(bundle, tiny_weights, 1, "phantom_003", "phantom_006")
    write_trained_cases(bundle / "models" / "model.pt", 1, [{"image": "phantom_003.nii.gz"}])
    places = {"dataset_dir": str(phantom_data), **values}
    workflow = load_workflow(bundle, ["inference.json", "evaluate.json"], places, "infer")
    if seen is None:
        workflow.parser.get_parsed_content("evaluator")
        return
    with pytest.raises(RuntimeError) as caught:
        workflow.parser.get_parsed_content("evaluator")
    assert f"{seen} was trained on" in str(our_error(caught.value))


def test_an_average_that_an_expression_names_is_checked_like_any_other(
    bundle: Path, tiny_weights: Path, scans: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_weights(bundle, tiny_weights, 1, "phantom_003", "phantom_006")
    (bundle / "models" / "model.pt").unlink()
    named = "$['runs/fold_1/best.pt'] * 2"
    assert main(["predict", str(bundle), str(scans), str(bundle.parent / "out"), "--ensemble", named]) == 0
    words = refusal(["evaluate", bundle, phantom_data, "--ensemble", named], capsys)
    assert "fold_1/best.pt was trained on 2 of the 2 validation cases of fold 0" in words
    other = named.replace("fold_1", "fold_2")
    words = refusal(["evaluate", bundle, phantom_data, "--ensemble", other], capsys, 1)
    assert "fold_2/best.pt, a file of ensemble, is missing" in words


def test_one_file_where_a_list_is_wanted_is_refused(
    bundle: Path, scans: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["predict", bundle, scans, bundle.parent / "out"], ["evaluate", bundle, phantom_data]):
        words = refusal([*command, "--ensemble", "$'models/model.pt'"], capsys)
        assert words == "Error: ensemble must be a list of files of weights, not 'models/model.pt'"


def test_predicting_averages_the_weights_of_the_folds(
    bundle: Path, tiny_weights: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_weights(bundle, tiny_weights, 0)
    add_weights(bundle, tiny_weights, 2)
    (bundle / "models" / "model.pt").unlink()
    arguments = ["predict", bundle, scans, tmp_path / "out", "--folds"]
    assert main([str(argument) for argument in [*arguments, "0,2"]]) == 0
    assert (
        "--ensemble '['\"'\"'runs/fold_0/best.pt'\"'\"', '\"'\"'runs/fold_2/best.pt'\"'\"']'" in capsys.readouterr().out
    )
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 2
    assert "fold_1/best.pt is missing" in refusal([*arguments, "all"], capsys, status=1)


def test_a_fold_that_fails_is_named_and_the_others_are_trained(
    tiny_bundle: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in (0, 2):  # what cannot be resumed, as a full disk may leave it
        folder = tiny_bundle / "runs" / f"fold_{fold}"
        folder.mkdir(parents=True)
        (folder / "last.pt").write_bytes(b"cut short")
    options = ["--folds", "all", "--resume", "--max-epochs", "1", "--num_workers", "0"]
    arguments = ["train", tiny_bundle, phantom_data, *options]
    assert main([str(argument) for argument in arguments]) == 1
    *_, summary, first, second = capsys.readouterr().out.rstrip().splitlines()
    assert summary.startswith("2 of 3 folds failed; the same line with --resume trains only these")
    assert first.startswith("  failed: fold 0: fold_0/last.pt is no readable checkpoint")
    assert second.startswith("  failed: fold 2: ")
    assert (tiny_bundle / "runs" / "fold_1" / "best.pt").is_file()


def test_a_fold_that_is_not_trained_to_its_end_is_warned_of(
    bundle: Path, tiny_weights: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold, finished in ((0, True), (1, False)):
        add_weights(bundle, tiny_weights, fold)
        state: dict[str, object] = {**dict.fromkeys(STATE_KEYS), "epoch": 4 if finished else 1, "finished": finished}
        torch.save({**state, "progress": {"max_epochs": 4}}, bundle / "runs" / f"fold_{fold}" / "last.pt")
    assert main(["evaluate", str(bundle), str(phantom_data), "--folds", "0,1"]) == 0
    said = "".join(capsys.readouterr())
    assert "Fold 1 is not trained to its end (1 of 4 epochs), its" in said
    assert said.count("to its end") == 1
    assert json.loads((bundle / "eval" / "cross_validation.json").read_text())["unfinished"] == [1]


def test_cleaning_is_not_chosen_where_labels_are_not_full(
    bundle: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle / "configs" / "evaluate.json"  # as it is planned with `ignore`
    config = json.loads(path.read_text())
    del config["choose_cleaning"]
    path.write_text(json.dumps(config))
    words = refusal(["evaluate", bundle, phantom_data, "--choose-cleaning"], capsys)
    assert words.startswith("Error: --choose-cleaning needs classes, each labelled in full")


def test_one_fold_does_not_come_after_another(
    tiny_bundle: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(tiny_bundle), str(phantom_data), "--folds", "1", "--max-minutes", "2", "--dry-run"]
    assert main(arguments) == 0
    assert "\nFold 1, 2 minutes, reading not counted.\n" in "\n" + capsys.readouterr().out
