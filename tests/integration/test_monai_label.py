"""MONAI Label's own app with the shipped bundle and one that `plan` wrote, from a folder and from Orthanc.

In each an annotator looks, lets the bundle segment, corrects, stores labels and trains; the new model is served.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from monai.bundle import run

from unet_bundle.predictor import Predictor

pydicom = pytest.importorskip("pydicom", minversion="3.0")
requests = pytest.importorskip("requests")
pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
LOGIN = ("reader", "not-on-the-command-line")
NAMES = ["anterior", "posterior"]
FITTED_TO, LABELLED, KEPT_BACK = slice(0, 5), slice(5, 13), slice(13, 16)
"""Cases that the first model is fitted to, that the annotator labels, and that nobody labels on the server."""


@dataclass(frozen=True)
class Case:
    """A scan as the server has it.

    Attributes:
        name: by which the server knows it.
        scan: a file, or the folder of a DICOM series.
        label: the annotator's, on the scan's grid.
    """

    name: str
    scan: Path
    label: Path


@pytest.fixture(scope="module")
def data(shared_data: Any) -> Path:
    return Path(shared_data("task04_hippocampus"))


@pytest.fixture(scope="module")
def case_names(data: Path) -> list[str]:
    """Of 16 cases, in the order in which they are used."""
    return sorted(path.name.removesuffix(".nii.gz") for path in (data / "imagesTr").glob("*.nii.gz"))[:16]


@pytest.fixture(scope="module")
def fitted(data: Path, case_names: Sequence[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a smaller network, as `plan` writes it, after a few steps on five cases."""
    from unet_bundle.cli import main

    folder = tmp_path_factory.mktemp("fitted")
    stated = yaml.safe_load((ROOT / "configs" / "hippocampus.yaml").read_text())
    overrides = {"network": {"channels": [8, 16, 32, 64]}, "iterations_per_epoch": 30, "val_interval": 1}
    (folder / "card.yaml").write_text(yaml.safe_dump({**stated, "overrides": overrides}))
    fingerprint = ROOT / "configs" / "hippocampus.fingerprint.json"
    planned = ["plan", "--fingerprint", str(fingerprint), "--card", str(folder / "card.yaml")]
    assert main([*planned, "--output", str(folder / "bundle")]) == 0
    path = folder / "bundle" / "configs" / "train.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "warmup_iterations": 5}))
    run(
        config_file=str(folder / "bundle" / "configs" / "train.json"),
        **{
            "bundle_root": str(folder / "bundle"),
            "max_epochs": 1,
            "train#dataset#data": [_pair(data, name) for name in case_names[FITTED_TO]],
            "validate#dataset#data": [],
        },
    )
    shutil.rmtree(folder / "bundle" / "runs")
    return folder / "bundle"


def _pair(data: Path, name: str) -> dict[str, str]:
    return {"image": str(data / "imagesTr" / f"{name}.nii.gz"), "label": str(data / "labelsTr" / f"{name}.nii.gz")}


@pytest.fixture(scope="module")
def files(data: Path, case_names: Sequence[str], tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """The cases in a folder of NIfTI files, for the server alone."""
    folder = tmp_path_factory.mktemp("studies")
    for name in case_names:
        shutil.copy(data / "imagesTr" / f"{name}.nii.gz", folder)
    return [Case(name, folder / f"{name}.nii.gz", data / "labelsTr" / f"{name}.nii.gz") for name in case_names]


@pytest.fixture(scope="module")
def series(files: Sequence[Case], synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """The same as DICOM series."""
    folder = tmp_path_factory.mktemp("dicom")
    return [_series(case, number, synthetic, folder) for number, case in enumerate(files, 1)]


def _series(case: Case, number: int, synthetic: ModuleType, folder: Path) -> Case:
    image = nib.as_closest_canonical(nib.load(case.scan))
    labels = np.asarray(nib.as_closest_canonical(nib.load(case.label)).dataobj).astype(np.uint8)
    voxels = np.asarray(image.dataobj, dtype=np.float64)
    stored = np.round(voxels / voxels.max() * 4000).astype(np.uint16)[::-1, ::-1]  # columns to the left, rows back
    study = f"1.2.826.0.1.3680043.8.498.88.{number}"

    def edit(index: int, dataset: Any) -> None:
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.2"
        dataset.FrameOfReferenceUID, dataset.InstanceNumber = f"{study}.3", index + 1
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{study}.2.{index + 1}"
        synthetic.set_pixels(dataset, np.ascontiguousarray(stored[:, :, index].T))

    last = image.affine @ [stored.shape[0] - 1, stored.shape[1] - 1, 0, 1]
    written = synthetic.write_series(
        folder / case.name, shape=stored.shape, spacing=tuple(map(float, nib.affines.voxel_sizes(image.affine))),
        origin=last[:3] * [-1, -1, 1], modality="MR", signed=False, bits=12, edit=edit,
    )  # fmt: skip
    affine = image.affine @ np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = last[:3]
    path = folder / f"{case.name}_label.nii.gz"
    nib.save(nib.Nifti1Image(labels[::-1, ::-1], affine), path)
    return Case(f"{study}.2", written.folder, path)


@pytest.fixture(scope="module")
def from_folder(
    servers: ModuleType, fitted: Path, files: Sequence[Case], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    bundles = {"hippocampus": ROOT / "bundle", "fitted": fitted}
    with servers.stock_app(tmp_path_factory.mktemp("label"), bundles, files[0].scan.parent) as server:
        yield server


@pytest.fixture(scope="module")
def from_orthanc(
    servers: ModuleType, fitted: Path, series: Sequence[Case], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("pacs")
    with servers.orthanc(folder / "orthanc", LOGIN) as pacs:
        for case in series:
            for path in case.scan.iterdir():
                body = path.read_bytes()
                url = pacs.url.replace("dicom-web", "instances")
                requests.post(url, data=body, auth=LOGIN, timeout=60).raise_for_status()
        settings = {
            "MONAI_LABEL_DICOMWEB_USERNAME": LOGIN[0],
            "MONAI_LABEL_DICOMWEB_PASSWORD": LOGIN[1],
            "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps({"Modality": "MR"}),
            "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"),
            "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "0",
        }
        bundles = {"hippocampus": ROOT / "bundle", "fitted": fitted}
        with servers.stock_app(folder, bundles, pacs.url, **settings) as server:
            yield server, pacs.url


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return Predictor(ROOT / "bundle", device="cpu")


def canonical(path: Path) -> np.ndarray:
    """Labels along the axes of the patient, so that grids that run otherwise can be compared."""
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj).astype(int)


def predicted(predictor: Predictor, case: Case) -> np.ndarray:
    labels = predictor(case.scan)
    image = nib.Nifti1Image(labels[0].numpy().astype(np.uint8), labels.affine.numpy())
    return np.asarray(nib.as_closest_canonical(image).dataobj).astype(int)


def dice(found: np.ndarray, true: np.ndarray) -> float:
    """Mean over the two labels."""
    values = [2 * np.sum((found == n) & (true == n)) / (np.sum(found == n) + np.sum(true == n)) for n in (1, 2)]
    return float(np.mean(values))


def served_dice(server: Any, model: str, cases: Sequence[Case], folder: Path) -> float:
    """Of what the server makes of the cases kept back."""
    found = []
    for case in cases:
        path = folder / "found.nii.gz"
        server.segment(model, case.name, path)
        found.append(dice(canonical(path), canonical(case.label)))
    return float(np.mean(found))


def look(server: Any) -> None:
    info = server.info()
    for model in ("hippocampus", "fitted"):
        assert info["models"][model]["labels"] == {"anterior": 1, "posterior": 2}
        assert info["models"][model]["dimension"] == 3
        assert info["models"][model]["type"] == "segmentation"
        assert model in info["trainers"]
    assert info["labels"] == NAMES
    assert info["datastore"]["total"] == 16


def let_segment(server: Any, shipped: Predictor, cases: Sequence[Case], folder: Path) -> None:
    """The server's labels are those of `Predictor`, and so of the MONAI CLI, voxel for voxel."""
    scores = []
    for case in cases[KEPT_BACK]:
        said = server.segment("hippocampus", case.name, folder / "found.nii.gz")
        found = canonical(folder / "found.nii.gz")
        grids = [nib.as_closest_canonical(nib.load(path)).affine for path in (folder / "found.nii.gz", case.label)]
        np.testing.assert_allclose(*grids, atol=1e-4)
        assert said["label_names"] == {"anterior": 1, "posterior": 2}
        np.testing.assert_array_equal(found, predicted(shipped, case))
        scores.append(dice(found, canonical(case.label)))
    assert min(scores) > 0.8


def annotate_and_train(server: Any, cases: Sequence[Case], folder: Path) -> None:
    """Labels are stored, and training from the model fitted to five cases makes a better one, which is served."""
    before = served_dice(server, "fitted", cases[KEPT_BACK], folder)
    checksum = server.server.request("GET", "/model/info/fitted").json()["checksum"]
    sample = server.next_sample()
    assert sample["id"] in {case.name for case in cases}
    for case in cases[LABELLED]:
        assert server.store(case.name, case.label, NAMES)["image"] == case.name
    assert server.info()["datastore"]["completed"] == 8
    assert server.next_sample()["id"] not in {case.name for case in cases[LABELLED]}

    server.train("fitted", max_epochs=5, val_split=0.25, device="cpu", multi_gpu=False)
    assert "New model.pt: mean Dice" in server.server.log
    assert server.server.request("GET", "/model/info/fitted").json()["checksum"] != checksum
    after = served_dice(server, "fitted", cases[KEPT_BACK], folder)
    assert after >= before + 0.05, (before, after)


def test_from_a_folder(from_folder: Any, shipped: Predictor, files: Sequence[Case], tmp_path: Path) -> None:
    look(from_folder)
    let_segment(from_folder, shipped, files, tmp_path)
    annotate_and_train(from_folder, files, tmp_path)


def test_from_orthanc(from_orthanc: Any, shipped: Predictor, series: Sequence[Case], tmp_path: Path) -> None:
    server, pacs = from_orthanc
    look(server)
    let_segment(server, shipped, series, tmp_path)
    annotate_and_train(server, series, tmp_path)
    stored = requests.get(f"{pacs}/series?Modality=SEG", auth=LOGIN, timeout=60).json()
    assert len(stored) == 8, "each label is a DICOM SEG in the PACS"


def test_options_of_the_client_reach_the_inferer(from_folder: Any, files: Sequence[Case], tmp_path: Path) -> None:
    case = files[-1]
    from_folder.segment("hippocampus", case.name, tmp_path / "found.nii.gz", overlap=0.0, sw_batch_size=2)
    other = Predictor(ROOT / "bundle", device="cpu", overrides={"overlap": 0.0})
    np.testing.assert_array_equal(canonical(tmp_path / "found.nii.gz"), predicted(other, case))


def test_label_map_and_what_is_said_of_it_come_together(from_folder: Any, files: Sequence[Case]) -> None:
    answer = from_folder.server.request("POST", f"/infer/hippocampus?image={files[-1].name}&output=all")
    assert answer.headers["content-type"].startswith("multipart/form-data")
    assert b'name="params"' in answer.content
    assert b'name="image"; filename=' in answer.content


def test_many_scans_at_once(from_folder: Any, files: Sequence[Case], shipped: Predictor, tmp_path: Path) -> None:
    wanted = {"max_batch_size": 2, "device": "cpu", "multi_gpu": False}
    from_folder.server.request("POST", "/batch/infer/hippocampus?images=unlabeled&run_sync=true", json=wanted)
    objects = from_folder.server.request("GET", "/datastore/?output=all").json()["objects"]
    done = [name for name, entry in objects.items() if "original" in entry["labels"]]
    assert len(done) == 2
    case = next(case for case in files if case.name == done[0])
    path = tmp_path / "found.nii.gz"
    path.write_bytes(from_folder.server.request("GET", f"/datastore/label?label={case.name}&tag=original").content)
    np.testing.assert_array_equal(canonical(path), predicted(shipped, case))


def test_training_in_the_servers_own_process(from_folder: Any, files: Sequence[Case]) -> None:
    for case in files[LABELLED][:3]:
        from_folder.store(case.name, case.label, NAMES)
    from_folder.train("fitted", wait=False, max_epochs=1, val_split=0.34, device="cpu", multi_gpu=False)
    assert "Training Finished" in from_folder.server.log
