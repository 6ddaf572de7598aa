import json
import re
from collections.abc import Mapping
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from unet_bundle import __version__
from unet_bundle.errors import ConfigError
from unet_bundle.io import find_cases, split_cases
from unet_bundle.planning import bundle as bundle_module
from unet_bundle.planning.bundle import (
    READERS,
    REQUIRED_PACKAGES,
    TESTED_VERSIONS,
    bundle_files,
    metadata,
    to_json,
    write_bundle,
)
from unet_bundle.planning.card import load_card
from unet_bundle.planning.plan import Plan, make_plan
from unet_bundle.planning.task_card import TaskCard
from unet_bundle.training.trained_cases import read_trained_cases

ROOT = Path(__file__).resolve().parents[2]
FINGERPRINT = ROOT / "configs" / "hippocampus.fingerprint.json"
CARD = ROOT / "configs" / "hippocampus.yaml"
SCORES = ROOT / "configs" / "hippocampus.scores.json"


@pytest.fixture(scope="module")
def hippocampus() -> tuple[Plan, dict[str, Any], TaskCard]:
    """The plan of the shipped bundle, with what it was made from."""
    fingerprint = json.loads(FINGERPRINT.read_text(encoding="utf-8"))
    card = load_card(CARD, {})
    return make_plan(fingerprint, card), fingerprint, card


def test_the_shipped_bundle_is_what_its_files_in_configs_plan_byte_for_byte(hippocampus):
    files = bundle_files(*hippocampus, scores=json.loads(SCORES.read_text(encoding="utf-8")))
    shipped = ROOT / "bundle"
    text = {
        path.relative_to(shipped).as_posix()
        for path in shipped.rglob("*")
        if path.is_file() and path.relative_to(shipped).parts[0] not in {"models", "runs", "eval"}
    }
    assert text == set(files)
    changed = [name for name, content in files.items() if (shipped / name).read_bytes() != content.encode("utf-8")]
    assert not changed, "plan it again: unet-bundle plan --fingerprint ... --card ... --scores ... --output bundle"


def test_the_shipped_weights_are_noted_with_the_cases_they_were_trained_on(shared_data):
    trained = read_trained_cases(ROOT / "bundle" / "models" / "model.pt")
    assert trained is not None, "python scripts/note_trained_cases.py bundle DATASET --fold 0"
    config = json.loads((ROOT / "bundle" / "configs" / "train.json").read_text(encoding="utf-8"))
    split = {"folds": config["folds"], "subject_key": config["subject_key"], "seed": config["split_seed"]}
    found = find_cases(shared_data("task04_hippocampus"))
    training, validation = split_cases(found, trained.fold, **split)
    assert trained.among(training) == len(training) == len(trained.hashes)
    assert trained.among(validation) == 0


def test_files_are_pure_and_hold_no_path_of_the_machine(hippocampus, tiny_files):
    files = bundle_files(*hippocampus)
    assert bundle_files(*hippocampus) == files
    for name, content in {**files, **tiny_files}.items():
        assert str(Path.home()) not in content or str(Path.home()) == "/root"
        assert not re.search(r"(?<![\w.:/@+'-])/(?:work|home|tmp|root|Users)/", content), name
        assert content.endswith("\n")
        assert "\r" not in content


def test_writing_twice_gives_the_same_bytes(tiny_files, tmp_path):
    def contents(folder: Path) -> dict[str, bytes]:
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    write_bundle(tiny_files, tmp_path / "a" / "bundle")
    first = contents(tmp_path / "a" / "bundle")
    write_bundle(tiny_files, tmp_path / "a" / "bundle")
    assert contents(tmp_path / "a" / "bundle") == first
    assert first == {name: text.encode() for name, text in tiny_files.items()}
    assert (tmp_path / "a" / "bundle" / "models").is_dir()


# --- metadata ---------------------------------------------------------------------------------------------------


def test_metadata_follows_the_schema(hippocampus, tiny_files, shared_data):
    schema = json.loads((shared_data("bundle_schema") / "meta_schema_20240725.json").read_text())
    for content in (metadata(hippocampus[0], hippocampus[2]), json.loads(tiny_files["configs/metadata.json"])):
        jsonschema.validate(content, schema)
        assert content["version"] in content["changelog"]


def test_metadata_says_what_the_network_takes_and_gives(hippocampus):
    plan, _, card = hippocampus
    content = metadata(plan, card)
    image = content["network_data_format"]["inputs"]["image"]
    pred = content["network_data_format"]["outputs"]["pred"]

    assert image["num_channels"] == plan.network["in_channels"] == len(image["channel_def"])
    assert pred["num_channels"] == plan.network["out_channels"] == len(pred["channel_def"])
    assert pred["channel_def"] == {"0": "background", "1": "anterior", "2": "posterior"}
    assert image["spatial_shape"] == pred["spatial_shape"] == plan.patch_size
    assert content["label_terms"]["anterior"]["value"] == 1
    assert content["label_terms"]["anterior"]["type"]["meaning"] == "Hippocampus"
    assert "not a medical device" in content["intended_use"]


def test_versions_are_those_that_the_tests_run_with():
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    stated = {**TESTED_VERSIONS, **REQUIRED_PACKAGES, **READERS["mm"], **READERS["pixels"]}
    assert stated.pop("unet-bundle") == __version__
    assert stated == {name: pinned[name] for name in stated}


def test_required_packages_are_dependencies_of_this_one():
    dependencies = {re.split(r"[^\w.-]", line)[0].lower() for line in requires("unet-bundle") or []}
    named = {*TESTED_VERSIONS, *REQUIRED_PACKAGES, *READERS["mm"], *READERS["pixels"]}
    assert named - {"unet-bundle"} <= dependencies


# --- writing ----------------------------------------------------------------------------------------------------


def foreign_bundle(folder: Path) -> None:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text('{"required_packages_version": {"nibabel": "5.2"}}')


def some_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("do not lose me")


def damaged_bundle(folder: Path) -> None:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text("{")


@pytest.mark.parametrize("make", [foreign_bundle, some_folder, damaged_bundle])
def test_a_folder_of_something_else_is_left_alone(make, tiny_files, tmp_path):
    output = tmp_path / "bundle"
    make(output)
    before = sorted(output.rglob("*"))
    with pytest.raises(ConfigError, match=r"is not empty and not a bundle of unet-bundle: give a new or"):
        write_bundle(tiny_files, output)
    assert sorted(output.rglob("*")) == before


def test_a_file_is_no_folder_for_a_bundle(tiny_files, tmp_path):
    (tmp_path / "bundle").write_text("a file")
    with pytest.raises(ConfigError, match=r"bundle is a file: give the folder the bundle goes to\.$"):
        write_bundle(tiny_files, tmp_path / "bundle")


def test_an_empty_folder_is_taken(tiny_files, tmp_path):
    (tmp_path / "bundle").mkdir()
    write_bundle(tiny_files, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "configs" / "train.json").is_file()


def test_planning_again_keeps_weights_and_runs(tiny_files, tiny_bundle):
    kept = [tiny_bundle / "models" / "model.pt", tiny_bundle / "runs" / "fold_0" / "last.pt"]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"dear")
    (tiny_bundle / "configs" / "train.json").write_text("{}")
    write_bundle(tiny_files, tiny_bundle)
    assert [path.read_bytes() for path in kept] == [b"dear"] * 2
    assert (tiny_bundle / "configs" / "train.json").read_text() == tiny_files["configs/train.json"]


def test_a_bundle_that_could_not_be_written_to_its_end_is_no_bundle(tiny_files, tmp_path, monkeypatch):
    replace = Path.replace

    def fail(path: Path, target: Path) -> Any:
        if Path(target).name == "train.json":
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(bundle_module.Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_bundle(tiny_files, tmp_path / "bundle")
    assert not (tmp_path / "bundle" / "configs" / "metadata.json").exists()


# --- JSON -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {}, [], {"a": []}, [[1, 2], [3, 4]], {"a": {"b": {"c": [{"d": 1}]}}}, "µ ß €", [1.5, None, True, "x" * 200],
        {"a": list(range(100))},
    ],
)  # fmt: skip
def test_json_is_read_back_as_it_was(value):
    text = to_json(value)
    assert json.loads(text) == value
    assert text.endswith("\n")


def test_short_lists_stand_on_one_line_and_components_do_not(tiny_files):
    text = tiny_files["configs/train.json"]
    assert '    "patch_size": [32, 32, 16],\n' in text
    assert '    "network_def": {\n        "_target_": "unet_bundle.networks.UNet",\n' in text
    assert max(map(len, text.splitlines())) <= 130


def test_the_cards_text_is_in_the_metadata(hippocampus):
    stated: Mapping[str, Any] = yaml.safe_load(CARD.read_text(encoding="utf-8"))
    content = metadata(hippocampus[0], hippocampus[2])
    assert content["name"] == stated["title"]
    assert content["data_source"] == stated["data_source"]
    assert content["changelog"] == stated["changelog"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("configs/inference.json", {"spacing": [2.0, 2.0, 2.0]}),
        ("configs/metadata.json", {"network_data_format": {}}),
        ("configs/train.json", {"label_values": [[0], [2], [1]]}),
    ],
)
def test_planning_otherwise_over_weights_is_refused_and_planning_the_same_is_not(name, change, tiny_files, tmp_path):
    bundle = tmp_path / "bundle"
    write_bundle(tiny_files, bundle)
    other = {**tiny_files, name: json.dumps({**json.loads(tiny_files[name]), **change})}
    write_bundle(other, bundle)  # no weights yet: nothing to spoil
    write_bundle(tiny_files, bundle)
    (bundle / "models" / "model.pt").write_bytes(b"weights")
    write_bundle(tiny_files, bundle)
    with pytest.raises(ConfigError, match=rf"holds weights of another plan \({next(iter(change))} in {name}"):
        write_bundle(other, bundle)
    assert (bundle / name).read_text() == tiny_files[name]
