"""The shipped bundle keeps the rules that the MONAI model zoo checks in a bundle before it takes it.

They are those of ci/verify_bundle.py and of the unit tests there (Project-MONAI/model-zoo), said in our own words: the
files that must be there; a version that the changelog has; metadata of the schema they name; a network that takes and
gives what the metadata say; weights that can be exported to TorchScript; configs whose workflows have all properties
and run, for training, for evaluation laid over training, and for inference.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out

pytestmark = pytest.mark.integration

SHIPPED = Path(__file__).resolve().parents[2] / "bundle"
NAME = "unet_bundle_hippocampus"
CASES = 10


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the shipped bundle at models/NAME, as the zoo has it, and the current folder."""
    left_out = shutil.ignore_patterns("runs", "eval", "*.ts", "*.onnx")
    shutil.copytree(SHIPPED, tmp_path / "models" / NAME, ignore=left_out)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models" / NAME


@pytest.fixture
def random_data(tmp_path: Path) -> Path:
    """Scans and labels without any sense, as the zoo's own tests use them."""
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    cases = [f"random_{number:03d}.nii.gz" for number in range(1, CASES + 1)]
    for kind, highest in (("imagesTr", 1000), ("labelsTr", 3)):
        (folder / kind).mkdir(parents=True)
        for case in cases:
            voxels = rng.integers(0, highest, size=(32, 40, 32)).astype(np.int16)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / kind / case)
    listed = [{"image": f"./imagesTr/{case}", "label": f"./labelsTr/{case}"} for case in cases]
    description = {"name": "random", "modality": {"0": "MRI"}, "training": listed, "test": []}
    labels = {"0": "background", "1": "anterior", "2": "posterior"}
    (folder / "dataset.json").write_text(json.dumps({**description, "labels": labels}))
    return folder


def workflow(root: Path, kind: str, files: list[str], **overrides: Any) -> Any:
    paths = [str(root / "configs" / file) for file in files]
    return ConfigWorkflow(
        workflow_type=kind,
        config_file=paths if len(paths) > 1 else paths[0],
        logging_file=str(root / "configs" / "logging.conf"),
        meta_file=str(root / "configs" / "metadata.json"),
        bundle_root=str(root),
        **overrides,
    )


def run_to_its_end(made: Any) -> None:
    made.initialize()
    assert not made.check_properties()
    made.run()
    made.finalize()


def test_the_files_that_must_be_there_are(zoo: Path) -> None:
    for name in ("configs/metadata.json", "LICENSE", "models/model.pt", "configs/inference.json"):
        assert (zoo / name).is_file(), name


def test_version_changelog_and_requirements(zoo: Path) -> None:
    metadata = json.loads((zoo / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
    needed = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    pins = {name: metadata[key] for name, key in needed.items()} | metadata["required_packages_version"]
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in pins.values()), pins


def test_metadata_network_and_torchscript_are_verified(zoo: Path, shared_data: Callable[[str], Path]) -> None:
    metadata, config = str(zoo / "configs" / "metadata.json"), str(zoo / "configs" / "inference.json")
    named = json.loads(Path(metadata).read_text())["schema"].rpartition("/")[2]
    (zoo / "eval").mkdir()
    schema = shutil.copy(shared_data("bundle_schema") / named, zoo / "eval" / "schema.json")
    verify_metadata(meta_file=metadata, filepath=str(schema))
    places = {"meta_file": metadata, "config_file": config, "bundle_root": str(zoo)}
    verify_net_in_out(net_id="network_def", **places)
    exported = zoo / "models" / "verify_model.ts"
    ckpt_export(net_id="network_def", filepath=str(exported), ckpt_file=str(zoo / "models" / "model.pt"), **places)
    torch.jit.load(exported)


def test_training_and_then_evaluation_laid_over_it(zoo: Path, random_data: Path) -> None:
    own = json.loads((zoo / "configs" / "train.json").read_text())
    small = {"dataset_dir": str(random_data), "patch_size": [16, 16, 16]}
    short = {"max_epochs": 1, "iterations_per_epoch": 1, "val_interval": 1, "num_workers": 0}
    assert set(short) <= set(own)
    run_to_its_end(workflow(zoo, "train", ["train.json"], **small, **short))
    assert (zoo / "runs" / "fold_0" / "last.pt").is_file()

    evaluation = workflow(zoo, "train", ["train.json", "evaluate.json"], **small)
    run_to_its_end(evaluation)
    weights = torch.load(zoo / "models" / "model.pt", weights_only=True)
    network = evaluation.parser.get_parsed_content("network").state_dict()
    assert all(torch.equal(network[name].cpu(), value.float()) for name, value in weights.items())
    metrics = evaluation.parser.get_parsed_content("validate::evaluator").state.metrics
    assert 0 <= metrics["val_mean_dice"] <= 1


def test_inference(zoo: Path, random_data: Path) -> None:
    images = random_data / "imagesTr"
    for path in sorted(images.iterdir())[2:]:
        path.unlink()
    run_to_its_end(workflow(zoo, "infer", ["inference.json"], dataset_dir=str(images)))
    made = sorted((zoo / "eval").rglob("*_seg.nii.gz"))
    assert [nib.load(path).shape for path in made] == [(32, 40, 32)] * 2
