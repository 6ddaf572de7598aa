"""No command in the documentation has an argument that does not exist, and no exception has outlived its command."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def commands() -> ModuleType:
    return _module("docs_commands", HERE / "commands.py")


@pytest.fixture(scope="module")
def parsing() -> ModuleType:
    return _module("docs_parsing", HERE / "parsing.py")


@pytest.fixture(scope="module")
def exceptions(commands: ModuleType) -> Any:
    return commands.read_exceptions()


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    return _module("docs_generated", ROOT / "docs" / "_ext" / "generated.py")


@pytest.fixture(scope="module")
def keys(generated: ModuleType) -> Mapping[str, Sequence[str]]:
    planned: Mapping[str, Sequence[str]] = generated.planned_keys()
    return planned


@pytest.fixture(scope="module")
def configs(generated: ModuleType) -> Mapping[str, Sequence[Any]]:
    kinds = [files for files, _ in generated.every_kind().values()]
    return {
        name: [files[name] for files in kinds if name in files] for name in {name for each in kinds for name in each}
    }


@pytest.fixture
def check(
    commands: ModuleType,
    parsing: ModuleType,
    configs: Mapping[str, Sequence[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], None]:
    """A function that checks the text of a command by the parser that it is for."""
    parsers = parsing.Parsers(configs, monkeypatch)
    return lambda text: parsers.check(commands.Command("page", 1, text))


def test_every_command_is_parsed_by_what_it_runs(
    commands: ModuleType,
    parsing: ModuleType,
    exceptions: Any,
    configs: Mapping[str, Sequence[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsers = parsing.Parsers(configs, monkeypatch)
    found = commands.all_commands(exceptions)
    assert len(found) > 50
    problems = [_problem(parsers, parsing, command) for command in {each.text: each for each in found}.values()]
    wrong = [problem for problem in problems if problem]
    assert not wrong, "\n".join(wrong)


def _problem(parsers: Any, parsing: ModuleType, command: Any) -> str:
    try:
        parsers.check(command)
    except parsing.UnknownArgumentError as error:
        return str(error)
    return ""


def test_no_exception_has_outlived_its_command(commands: ModuleType, exceptions: Any) -> None:
    texts = {command.text for command in commands.all_commands(exceptions)}
    assert sorted(set(exceptions.reasons) - texts) == [], "these commands are on no page any more"
    first_lines = {block.first_line for block in commands.blocks()}
    assert sorted(set(exceptions.not_commands) - first_lines) == [], "these blocks are on no page any more"
    programs = {block.first_line for block in commands.programs()}
    assert sorted(set(exceptions.programs) - programs) == [], "these programs are on no page any more"
    assert not [say for say in exceptions.shorter if not any(say in text for text in texts)]


def test_what_nothing_can_parse_is_an_exception(commands: ModuleType, parsing: ModuleType, exceptions: Any) -> None:
    loose = [c for c in commands.all_commands(exceptions) if parsing.is_unchecked(c)]
    assert not [str(command) for command in loose if command.text not in exceptions.reasons]


def test_options_named_amid_the_text_exist(
    commands: ModuleType, keys: Mapping[str, Sequence[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    from unet_bundle.cli import main

    everything = {key for names in keys.values() for key in names}
    found = list(commands.inline_commands())
    assert len(found) > 5
    for command in found:
        words = command.words
        if words[0] == "python":
            assert (ROOT / words[1]).is_file(), str(command)
            continue
        with pytest.raises(SystemExit) as ended:
            main([words[1], "--help"])
        assert ended.value.code == 0, str(command)
        options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        for option in (word for word in words if word.startswith("--")):
            assert option in options or option.removeprefix("--") in everything, f"{command}: {option}"


def test_scripts_in_the_documentation_are_whole(commands: ModuleType) -> None:
    scripts = [block for block in commands.blocks() if block.text.startswith("#!")]
    assert scripts
    for block in scripts:
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block.page}, line {block.line}: {done.stderr}"


@pytest.mark.parametrize(
    "text",
    [
        "unet-bundle train bundle DATASET --max-minute 60",
        "unet-bundle train bundle DATASET --learning_rates 0.1",
        "unet-bundle trian bundle DATASET",
        "python -m monai.bundle run --config_file bundle/configs/train.json --bundle_root bundle --datasets_dir X",
        "python -m monai.bundle run --config_file bundle/configs/trian.json --bundle_root bundle --dataset_dir X",
        "python scripts/show_augmentation.py case.nii.gz --labels label.nii.gz",
        "python scripts/show_augmentations.py case.nii.gz",
        "unet-bundle predict bundle STUDY OUT --dicom::on_tillt resample",
        "unet-bundle train bundle DATASET --network_def::chanels 3",
        "python -m unet_bundel.cli predict --nonsense",
        "python -m unet_bundle.cli predict --nonsense",
        "python -m monai.bundel run --x 1",
        "python -m monai.bundle runn --x 1",
        "python -c 'import torch print'",
        "python other.py",
        "torchrun --nproc_per_node 2 monai.bundle run --config_file bundle/configs/train.json --bundle_root bundle",
        "torchrun --processes 4 -m monai.bundle run --config_file bundle/configs/train.json --bundle_root bundle",
        "make tests",
        "pip install 'unet-bundle[dicomwebs]'",
        "python -m monai.bundle push_to_hf_hub --repository USER/hippocampus",
    ],
)
def test_a_wrong_command_is_found(text: str, parsing: ModuleType, check: Callable[[str], None]) -> None:
    with pytest.raises(parsing.UnknownArgumentError, match=re.escape(text)):
        check(text)


@pytest.mark.parametrize(
    "text",
    [
        "unet-bundle train bundle DATASET --network_def::channels '[8, 16]'",
        "unet-bundle predict bundle STUDY OUT --dicom::on_tilt resample --preprocessing::transforms::2::mode bilinear",
        "python -m unet_bundle.cli predict bundle SCANS OUT",
        "python -c 'import torch'",
    ],
)
def test_a_right_command_is_let_through(text: str, check: Callable[[str], None]) -> None:
    check(text)


@pytest.mark.parametrize("text", ["unet-bundel predict bundle SCANS OUT\n", "make demo\nfrobnicate x\n"])
def test_a_block_that_nobody_can_place_is_found(text: str, commands: ModuleType) -> None:
    with pytest.raises(ValueError, match="is this a command"):
        commands.commands_of(commands.Block("page", 1, "", text))


def test_lines_that_go_on_and_remarks(commands: ModuleType) -> None:
    text = "unet-bundle predict bundle \\\n    SCANS OUT    # all of them\nmake test # the tests\n"
    found = [(command.line, command.text) for command in commands.commands_of(commands.Block("page", 7, "", text))]
    assert found == [(7, "unet-bundle predict bundle SCANS OUT"), (9, "make test")]
