"""Every key of a bundle's configs has its line in docs/keys.yaml, and every line its key."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generated", ROOT / "docs" / "_ext" / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_key_has_a_line(generated: ModuleType) -> None:
    meanings = generated.read_meanings()
    missing = [
        f"{file}: {key}"
        for file, keys in generated.planned_keys().items()
        for key in keys
        if not generated.meaning_of(key, file, meanings)
    ]
    assert not missing, f"docs/keys.yaml has no line for: {missing}"


def test_every_line_has_a_key(generated: ModuleType) -> None:
    keys = generated.planned_keys()
    lines = generated.read_meanings()
    everywhere = {key for names in keys.values() for key in names}
    stale = [f"common: {key}" for key in lines.pop(generated.COMMON) if key not in everywhere]
    stale += [f"{file}: {key}" for file, meanings in lines.items() for key in meanings if key not in keys.get(file, [])]
    assert not stale, f"docs/keys.yaml has a line for what is no key: {stale}"


def test_a_common_line_is_of_several_files_and_said_once(generated: ModuleType) -> None:
    keys, lines = generated.planned_keys(), generated.read_meanings()
    common = lines.pop(generated.COMMON)
    for key in common:
        files = [file for file, names in keys.items() if key in names and key not in lines.get(file, {})]
        assert len(files) > 1, f"{key} belongs to {files}"


def test_the_shipped_bundle_has_no_other_keys(generated: ModuleType) -> None:
    keys = generated.planned_keys()
    for path in sorted((ROOT / "bundle" / "configs").glob("*.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        assert set(generated.keys_of(config)) <= set(keys[path.name]), path.name


def test_the_keys_of_every_feature_are_among_them(generated: ModuleType) -> None:
    """The plans that the list is made from have what only some data sets need."""
    keys = generated.planned_keys()
    assert {"compile", "channels_last", "channel_dropout", "border_weight::w0", "regions"} <= set(keys["train.json"])
    wanted = {"crop_above", "core", "missing_channels", "region_channels", "dicom::on_tilt"}
    assert wanted <= set(keys["inference.json"])
    assert {"label_values", "ignore_index", "image_files"} <= set(keys["evaluate.json"])


def test_the_page_explains_every_key_in_a_row(generated: ModuleType) -> None:
    page = generated.configs_page()
    for file, names in generated.planned_keys().items():
        if file != generated.TENSOR:
            section = page.split(f"## {file}\n")[1].split("\n## ")[0]
            for key in names:
                assert f"\n| `{key}` | " in section, f"{file}: {key}"
    assert "| None" not in page
    assert "| `compile` | whether torch.compile" in page
    assert "are kept back (here `0`) |" in page
    assert "(here `unet_bundle.training.make_optimizer`) |" in page


def test_every_verb_is_on_the_page_of_commands(generated: ModuleType) -> None:
    page = generated.commands_page()
    for verb in generated.verbs():
        assert f"## unet-bundle {verb}\n" in page
        assert f"usage: unet-bundle {verb} " in page
