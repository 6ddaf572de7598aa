"""The commands of README.md and docs/ are run, page by page, in one small prepared folder.

What is not run stands in tests/docs/exceptions.yaml with the reason.
"""

import importlib.util
import inspect
import runpy
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
SCAN = "scan.nii.gz"
PLACES = {"SCAN": SCAN, "$DATASET": "DATASET"}
"""What stands for a file in the documentation, and the file here; all else is called here as it is there."""

OVERRIDES = {
    "spacing": [6.0, 6.0, 8.0],
    "patch_size": [32, 32, 16],
    "batch_size": 2,
    "network": {"channels": [8, 8, 16, 16]},
    "iterations_per_epoch": 2,
    "max_epochs": 1,
    "val_interval": 1,
}


def _commands() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_commands", ROOT / "tests" / "docs" / "commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_commands"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


COMMANDS = _commands()
EXCEPTIONS = COMMANDS.read_exceptions()
TO_RUN = [command for command in COMMANDS.all_commands(EXCEPTIONS) if command.text not in EXCEPTIONS.reasons]
PROGRAMS = [block for block in COMMANDS.programs() if block.first_line not in EXCEPTIONS.programs]
PAGES = sorted({command.page for command in TO_RUN})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, synthetic: ModuleType) -> Path:
    """A folder that holds what the documentation speaks of, with a bundle whose folds are trained for two steps."""
    from unet_bundle.phantom import make_phantom, phantom_card

    root = tmp_path_factory.mktemp("docs")
    make_phantom(root / "DATASET", cases=4)
    card = {**yaml.safe_load(phantom_card()), "folds": 2, "overrides": OVERRIDES}
    (root / "card.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    images = sorted((root / "DATASET" / "imagesTr").glob("*.nii.gz"))
    (root / "SCANS").mkdir()
    for name in (SCAN, "SCANS/first.nii.gz", "imagesTr/case.nii.gz"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(images[0], root / name)
    (root / "labelsTr").mkdir()
    shutil.copy(root / "DATASET" / "labelsTr" / images[0].name, root / "labelsTr" / "case.nii.gz")
    synthetic.write_series(root / "STUDY", shape=(40, 40, 10), spacing=(5.0, 5.0, 8.0), modality="MR")
    (root / "series_folder").symlink_to(root / "STUDY")
    (root / "scripts").symlink_to(ROOT / "scripts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for bundle in ("other_bundle", "bundle"):
            _run(["unet-bundle", "plan", "DATASET", "--output", bundle, "--card", "card.yaml"])
            _run(["unet-bundle", "train", bundle, "DATASET", "--folds", "all"])
        _run(["unet-bundle", "evaluate", "bundle", "DATASET"])
    shutil.copytree(root / "bundle", root / "prepared")
    return root


def _run(words: list[str]) -> None:
    """Run a command in this process, as its program would: starting Python and MONAI anew takes seconds each time.

    Raises:
        RuntimeError: it did not end with 0.
    """
    from unet_bundle.cli import main

    code: Any = 0
    with pytest.MonkeyPatch.context() as patch:
        if words[0] == "unet-bundle":
            code = main(words[1:])
        else:
            arguments = words[1:]
            patch.setattr(sys, "excepthook", sys.excepthook)  # MONAI's runs set one of their own
            try:
                if arguments[0] == "-m":
                    patch.setattr(sys, "argv", arguments[1:])
                    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
                else:
                    patch.setattr(sys, "argv", arguments)
                    patch.syspath_prepend(str(Path(arguments[0]).resolve().parent))
                    runpy.run_path(arguments[0], run_name="__main__")
            except SystemExit as ended:
                code = ended.code
    if code not in (0, None):
        raise RuntimeError(f"it ended with {code}")


def test_the_prepared_folder_runs_every_kind() -> None:
    """What is run is most of what is there, whole chains with it."""
    programs = {tuple(command.words[:2]) for command in TO_RUN}
    verbs = {words[1] for words in programs if words[0] == "unet-bundle"}
    assert {"check", "plan", "train", "evaluate", "report", "predict", "export", "inspect"} <= verbs
    assert ("python", "-m") in programs
    assert len(TO_RUN) > len(EXCEPTIONS.reasons)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block finds the bundle as it was prepared, and its commands what those before them in the block left."""
    monkeypatch.chdir(folder)
    block = -1
    for command in (command for command in TO_RUN if command.page == page):
        text = command.text
        for say, run in EXCEPTIONS.shorter.items():
            text = text.replace(say, run)
        if command.block != block:
            block = command.block
            shutil.rmtree("bundle")
            shutil.copytree("prepared", "bundle")
        shutil.rmtree("OUT", ignore_errors=True)  # what is there is skipped
        words = [PLACES.get(word, word) for word in COMMANDS.Command(page, command.line, text).words]
        before = _files(words, folder)
        try:
            _run(words)
        except Exception as error:
            raise AssertionError(f"{command}\n{error}") from error
        _check_left(words, folder, before)


@pytest.mark.parametrize("text", ["evaluate bundle DATASET", "plan DATASET --output bundle", "train bundle DATASET"])
def test_a_command_that_leaves_nothing_new_is_found(text: str, folder: Path) -> None:
    words = ["unet-bundle", *text.split()]
    before = _files(words, folder)
    assert all(before.values()), "of an earlier run all is there"
    with pytest.raises(AssertionError, match="left no new"):
        _check_left(words, folder, before)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda block: f"{block.page}:{block.line}")
def test_a_program_of_a_page(program: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.chdir(folder)
    voxels = np.random.default_rng(0).normal(size=(1, 24, 24, 10)).astype(np.float32)
    names: dict[str, Any] = {"voxels": voxels, "affine": np.diag([6.0, 6.0, 8.0, 1.0])}
    exec(compile(inspect.cleandoc(program.text), f"{program.page}:{program.line}", "exec"), names)  # noqa: S102
    labels = names["labels"]
    assert labels.ndim == 4
    assert set(np.unique(labels.numpy())) <= {0, 1, 2, 3}


def _files(words: list[str], folder: Path) -> dict[str, dict[Path, int]]:
    """The time of the last change of the files that a command of ours has to write, by the pattern of their names."""
    if words[0] != "unet-bundle" or "--dry-run" in words:
        return {}
    verb = words[1]
    bundle = words[words.index("--output") + 1] if verb == "plan" else words[2] if len(words) > 2 else ""
    patterns = {
        "plan": [f"{bundle}/configs/train.json", f"{bundle}/docs/README.md"],
        "train": [f"{bundle}/runs/*/last.pt"],
        "predict": ["OUT/*_seg.*", "OUT/volumes.csv"],
        "evaluate": [f"{bundle}/eval/**/scores.csv"],
        "report": [f"{bundle}/report.html"],
        "export": [f"{bundle}/models/model.onnx"],
    }
    return {
        pattern: {file: file.stat().st_mtime_ns for file in folder.glob(pattern) if file.stat().st_size}
        for pattern in patterns.get(verb, [])
    }


def _check_left(words: list[str], folder: Path, before: dict[str, dict[Path, int]]) -> None:
    """Every kind of file that a command has to write has one that is new, or was written anew."""
    for pattern, files in _files(words, folder).items():
        assert files.items() - before[pattern].items(), f"{' '.join(words)} left no new {pattern}"
