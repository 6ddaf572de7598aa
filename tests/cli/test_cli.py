"""What holds for every verb: help, exit codes, one line for an error."""

import argparse
import json
from pathlib import Path

import pytest

from unet_bundle import __version__
from unet_bundle.cli import VERBS, main
from unet_bundle.cli.workflow import monai_line, parse_overrides, split_overrides
from unet_bundle.errors import ConfigError


def last_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of the error stream, which must be the only one of ours and no traceback."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert text.count("Error: ") == 1
    return text.rstrip("\n").splitlines()[-1]


# --- help -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["plan", "train", "evaluate", "predict", "demo"])
def test_help_teaches_by_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "example" in text
    assert text.count(f"unet-bundle {verb}") >= 2  # the usage, and a line to copy


def test_help_lists_every_verb_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for verb in VERBS:
        assert f"unet-bundle {verb.__name__.rpartition('.')[2].replace('_', '-')}" in text
    assert "130 interrupted" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["trian"], ["plan"], ["train"], ["plan", "data", "--output", "b", "--foo", "1"]]
)
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: unet-bundle" in capsys.readouterr().err


# --- overrides --------------------------------------------------------------------------------------------------


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--max-epochs", type=int)
    parser.add_argument("--dry-run", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("arguments", "known", "overrides"),
    [
        (["b", "--batch_size", "4"], ["b"], ["--batch_size", "4"]),
        (["--batch_size", "4", "b"], ["b"], ["--batch_size", "4"]),  # argparse would take 4 for the bundle
        (["--batch_size=4", "b"], ["b"], ["--batch_size", "4"]),
        (["b", "--seed", "-1"], ["b"], ["--seed", "-1"]),
        (["b", "--output_dir", "a=b"], ["b"], ["--output_dir", "a=b"]),
        (["--max_epochs", "3", "b", "--dry_run"], ["--max-epochs", "3", "--dry-run", "b"], []),  # options first
        (["--max_epochs=3", "b"], ["--max-epochs=3", "b"], []),
    ],
)
def test_overrides_are_told_from_options(
    parser: argparse.ArgumentParser, arguments: list[str], known: list[str], overrides: list[str]
) -> None:
    assert split_overrides(arguments, parser) == (known, overrides)


@pytest.mark.parametrize("arguments", [["b", "--dry-runn"], ["b", "--dryrun", "--max-epochs", "3"]])
def test_option_without_value_gets_the_closest_one(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="has no value: did you mean --dry-run"):
        split_overrides(arguments, parser)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("1e-3", 0.001),  # though not in YAML 1.1
        ("0.001", 0.001),
        ("-1", -1),
        ("[32, 32, 16]", [32, 32, 16]),
        ("true", True),
        ("null", None),
        ("auto", "auto"),
        ("$2 * 3", "$2 * 3"),
        ("@max_epochs", "@max_epochs"),
        ("%other.json::key", "%other.json::key"),
        ("{a", "{a"),
        ("C:/data", "C:/data"),
    ],
)
def test_values_are_read_as_yaml(text: str, value: object) -> None:
    assert parse_overrides(["--key", text], {}) == {"key": value}


def test_both_separators_name_one_key() -> None:
    assert parse_overrides(["--train#trainer#amp", "false"], {}) == {"train::trainer::amp": False}


@pytest.mark.parametrize("key", ["fold", "bundle_root"])
def test_what_the_arguments_set_is_not_set_twice(key: str) -> None:
    with pytest.raises(ConfigError, match="leave it out"):
        parse_overrides([f"--{key}", "1"], {"fold": 0})


def test_line_of_the_monai_cli_can_be_copied() -> None:
    line = monai_line(Path("my bundle"), ["a.json", "b.json"], {"batch_size": 4, "output_dir": "out"})
    assert "--batch_size 4" in line
    assert "'my bundle'" in line
    assert "a.json" in line
    assert "b.json" in line


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_missing_data_set(verb: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, str(bundle), str(tmp_path / "nothing")]) == 2
    assert "does not exist" in last_error(capsys)
    (tmp_path / "empty").mkdir()
    assert main([verb, str(bundle), str(tmp_path / "empty")]) == 1
    assert "has no dataset.json" in last_error(capsys)


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict"])
@pytest.mark.parametrize("kind", ["missing", "file", "folder"])
def test_not_a_bundle(verb: str, kind: str, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "no_bundle"
    if kind == "file":
        path.write_text("x")
    elif kind == "folder":
        path.mkdir()
    assert main([verb, str(path), str(scans), *([str(tmp_path / "out")] if verb == "predict" else [])]) == 2
    assert "give the folder of a bundle" in last_error(capsys)


def test_broken_config(bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "configs" / "inference.json").write_text("{")
    assert main(["predict", str(bundle), str(scans), str(tmp_path / "out")]) == 2
    assert "inference.json is not valid JSON" in last_error(capsys)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (["--batch_sizes", "3"], "did you mean 'batch_size'"),
        (["--train::trainer::max_epoch", "3"], "did you mean 'train::trainer::max_epochs'"),
        (["--train#foo", "3"], "'train::foo' has no effect"),
        (["--nowhere::there", "3"], "has no 'nowhere'"),
        (["--network_def::deeper::there", "3"], "has no 'network_def::deeper'"),
        (["--batch_size", "many"], "'batch_size' must be a whole number"),
        (["--dataset_dir", "x"], "leave it out"),
        (["--foo"], "--foo has no value"),
    ],
)
def test_override_without_a_place(
    override: list[str], words: str, bundle: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(bundle), str(phantom_data), "--dry-run", *override]) == 2
    assert words in last_error(capsys)


def test_traceback_on_demand(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        main(["--traceback", "train", str(tmp_path), str(tmp_path)])


def test_interrupted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unet_bundle.phantom.make_phantom", interrupt)
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


# --- plan -------------------------------------------------------------------------------------------------------


def test_plan_writes_a_bundle_that_can_be_planned_again_without_the_scans(
    phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card, measured = phantom_data.parent / "card.yaml", tmp_path / "new" / "fingerprint.json"
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ["--card", str(card), "--fingerprint", str(measured)]
    assert main(["plan", str(phantom_data), "--output", str(first), *arguments]) == 0
    assert "Next: unet-bundle train" in capsys.readouterr().out
    assert main(["plan", "--output", str(second), *arguments]) == 0
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert Path("configs/metadata.json") in names
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_plan_dry_run_writes_nothing(phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(phantom_data), "--output", str(tmp_path / "bundle"), "--dry-run"]) == 0
    assert "patch_size" in capsys.readouterr().out
    assert not (tmp_path / "bundle").exists()


def test_plan_leaves_what_is_no_bundle(phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("two years of work")
    assert main(["plan", str(phantom_data), "--output", str(tmp_path)]) == 2
    assert "not a bundle" in last_error(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_plan_needs_scans_or_their_fingerprint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--output", str(tmp_path / "bundle")]) == 2
    assert "--fingerprint" in last_error(capsys)
    missing = str(tmp_path / "none.json")
    assert main(["plan", "--output", str(tmp_path / "b"), "--fingerprint", missing, "--card", missing]) in {1, 2}
    assert "none.json" in last_error(capsys)


# --- train, evaluate --------------------------------------------------------------------------------------------


def test_train_dry_run_forecasts(bundle: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = (bundle / "models" / "model.pt").read_bytes()
    assert main(["train", str(bundle), str(phantom_data), "--dry-run", "--max_epochs", "5"]) == 0
    text = capsys.readouterr().out
    assert "MONAI: python -m monai.bundle run --config_file" in text
    assert "--max_epochs 5" in text
    assert "4 cases to train on, 2 to validate on" in text
    assert "Memory: about" in text
    assert "Time: 15 steps of about" in text
    assert not (bundle / "runs").exists()
    assert (bundle / "models" / "model.pt").read_bytes() == weights


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_there_must_be_a_run_to_resume(
    dry: list[str], bundle: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(bundle), str(phantom_data), "--resume", *dry]) == 1
    assert "fold_0/last.pt is missing, there is no run to resume: start anew without --resume" in last_error(capsys)
    assert not (bundle / "runs").exists()


@pytest.mark.parametrize(
    ("words", "stated"),
    [(["--resume", "auto"], "auto"), (["--resume=auto"], "auto"), ([], None), (["--fold", "0"], None)],
)
def test_a_run_is_resumed_if_there_is_one(
    words: list[str], stated: str | None, bundle: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([*words, str(bundle), str(phantom_data)], [str(bundle), str(phantom_data), *words]):
        assert main(["train", *arguments, "--dry-run"]) == 0
        assert (f"--resume {stated}" in capsys.readouterr().out) is (stated is not None)
    assert main(["train", "--resume", str(bundle), str(phantom_data), "--dry-run"]) == 1
    assert "there is no run to resume" in last_error(capsys)


def test_a_patch_that_the_network_cannot_take_is_refused_in_one_line(
    bundle: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(bundle), str(phantom_data), "--patch_size", "[8, 8, 4]", "--dry-run"]) != 0
    assert "shrinks to a single voxel" in last_error(capsys)


def test_evaluate_dry_run(bundle: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(bundle), str(phantom_data), "--dry-run", "--part", "all"]) == 0
    assert "6 cases; nothing was run" in capsys.readouterr().out
    assert not (bundle / "eval").exists()


def test_evaluate_shows_the_scores_of_the_folder_it_writes(
    bundle: Path, phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scores"
    assert main(["evaluate", str(bundle), str(phantom_data), "--output_dir", str(output)]) == 0
    report = json.loads((output / "scores.json").read_text())
    assert len(report["cases"]) == 2
    assert f"{report['mean']:.4f}" in capsys.readouterr().out
    assert not (bundle / "eval").exists()


# --- demo -------------------------------------------------------------------------------------------------------


def test_demo_empties_no_folder_but_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "card.yaml").write_text("name: mine\n")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "not an earlier demo" in last_error(capsys)
    assert (tmp_path / "card.yaml").is_file()
    assert main(["demo", "--output", str(tmp_path / "card.yaml")]) == 2
