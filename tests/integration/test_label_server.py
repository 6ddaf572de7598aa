"""Our own app for annotators: from no model and no label to one that is served, and what MONAI Label's own lacks."""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.predictor import Predictor

pydicom = pytest.importorskip("pydicom", minversion="3.0")
requests = pytest.importorskip("requests")
sitk = pytest.importorskip("SimpleITK")
pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
LOGIN = ("reader", "not-on-the-command-line")


@pytest.fixture(scope="module")
def scans(shared_data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scans, and a damaged file among them."""
    folder = tmp_path_factory.mktemp("scans")
    for path in sorted((shared_data("task04_hippocampus") / "imagesTr").glob("*.nii.gz"))[:6]:
        shutil.copy(path, folder)
    (folder / "damaged.nii.gz").write_bytes(b"nothing")
    return folder


@pytest.fixture
def label_of(shared_data: Any) -> Any:
    return lambda name: shared_data("task04_hippocampus") / "labelsTr" / f"{name}.nii.gz"


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """The shipped bundle's configs without weights, for a training of seconds."""
    folder = tmp_path / "hippocampus"
    shutil.copytree(ROOT / "bundle", folder, ignore=shutil.ignore_patterns("*.pt", "model.json"))
    (folder / "models").mkdir(exist_ok=True)
    train = folder / "configs" / "train.json"
    stated = {**json.loads(train.read_text()), "iterations_per_epoch": 2, "val_interval": 1, "num_workers": 0}
    for name in ("train.json", "inference.json"):
        path = folder / "configs" / name
        content = stated if name == "train.json" else json.loads(path.read_text())
        content["network_def"]["channels"] = [4, 8, 8, 8]
        path.write_text(json.dumps(content))
    return folder


def with_value(value: int, label: Path, path: Path) -> Path:
    """A label map with a voxel of another value."""
    image = nib.load(label)
    voxels = np.asarray(image.dataobj).astype(np.uint8)
    voxels[0, 0, 0] = value
    nib.save(nib.Nifti1Image(voxels, image.affine), path)
    return path


def test_from_no_model_and_no_label_to_one_that_is_served_and_back(
    servers: ModuleType, untrained: Path, scans: Path, label_of: Any, tmp_path: Path
) -> None:
    with servers.own_app(tmp_path, untrained, scans, "--train-every", "3") as server:
        assert "3D Slicer" in server.server.log
        info = server.info()
        assert info["models"]["hippocampus"]["trained"] is False
        assert info["models"]["hippocampus"]["label_colors"]["anterior"] == [230, 159, 0]
        first = server.next_sample("spread")["id"]
        assert first != "damaged", "what cannot be read is not offered"
        answer = server.server.request("POST", f"/infer/hippocampus?image={first}", status=400, data={"params": "{}"})
        assert "there is no model yet" in answer.text
        answer = server.server.request("POST", "/train/hippocampus?run_sync=true", status=400, json={})
        assert "there is no label to train on" in answer.text

        names = sorted(path.name.removesuffix(".nii.gz") for path in scans.glob("hippo*"))
        answer = server.store(names[3], with_value(7, label_of(names[3]), tmp_path / "foreign.nii.gz"))
        assert "left out of training: its label map has value 7" in answer["warning"]
        form = {"params": "{}"}
        path = "/infer/hippocampus?image=nothing"
        assert "no scan of this name" in server.server.request("POST", path, status=400, data=form).text
        with label_of(names[3]).open("rb") as file:
            path = "/datastore/label?image=nothing&tag=final"
            answer = server.server.request("PUT", path, status=400, data=form, files={"label": ("a.nii.gz", file)})
        assert "no scan of this name" in answer.text
        for name in names[:3]:
            assert "warning" not in server.store(name, label_of(name))
        assert server.next_sample("spread")["id"] in names[4:]
        server.trained()  # three labels start it
        assert f"{names[3]} is left out of training: its label map has value 7" in server.server.log
        model = untrained / "models" / "model.pt"
        served = model.read_bytes()
        path = tmp_path / "found.nii.gz"
        server.segment("hippocampus", names[5], path)
        expected = Predictor(untrained, device="cpu")(scans / f"{names[5]}.nii.gz")[0].numpy()
        np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), expected)

        end = time.monotonic() + servers.PATIENCE_S  # the new model scores what is left in the background
        path_to = f"/datastore/image/info?image={names[5]}"
        while "uncertainty" not in (entry := server.server.request("GET", path_to).json()):
            assert time.monotonic() < end, server.server.end
            time.sleep(0.5)
        assert 0 < entry["uncertainty"] <= 1

        # Another model takes its place; the way back leads to this one.
        (untrained / "models" / "before").mkdir()
        (untrained / "models" / "before" / "0001.pt").write_bytes(served)
        model.write_bytes(b"spoilt")
        server.train("hippocampus_back", wait=False)
        assert model.read_bytes() == served


@pytest.fixture
def pacs(servers: ModuleType, tmp_path: Path, synthetic: ModuleType) -> Iterator[Any]:
    """Orthanc with two MR series: one whole, one that lacks a slice."""
    with servers.orthanc(tmp_path / "orthanc", LOGIN) as server:
        for number, skip in ((1, ()), (2, (3,))):
            series = synthetic.write_series(
                tmp_path / str(number), shape=(36, 48, 32), spacing=(1.0, 1.0, 1.0), modality="MR", signed=False,
                bits=12, skip=skip, seed=number,
            )  # fmt: skip
            for path in series.files:
                url = server.url.replace("dicom-web", "instances")
                requests.post(url, data=path.read_bytes(), auth=LOGIN, timeout=60).raise_for_status()
        yield server


def test_dicom_is_read_by_our_reader_and_written_with_right_names(
    servers: ModuleType, pacs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(shutil.copytree(ROOT / "bundle", tmp_path / "hippocampus"))
    train = bundle / "configs" / "train.json"
    train.write_text(json.dumps({**json.loads(train.read_text()), "iterations_per_epoch": 1, "num_workers": 0}))
    netrc = {"NETRC": str(pacs.folder / "netrc"), "NO_PROXY": "127.0.0.1"}
    for name, value in netrc.items():
        monkeypatch.setenv(name, value)
    with servers.own_app(tmp_path, bundle, pacs.url, **netrc) as server:
        whole, gapped = (f"1.2.826.0.1.3680043.8.498.{number}.0.2" for number in (1, 2))
        assert server.info()["datastore"]["total"] == 2
        refusal = server.server.request("POST", f"/infer/hippocampus?image={gapped}", status=400, data={"params": "{}"})
        assert "lacks 1 slice" in refusal.json()["detail"], "the reader's line"
        path = tmp_path / "found.nii.gz"
        server.segment("hippocampus", whole, path)
        found = nib.as_closest_canonical(nib.load(path))
        labels = Predictor(bundle, device="cpu")(tmp_path / "1")
        expected = nib.as_closest_canonical(nib.Nifti1Image(labels[0].numpy(), labels.affine.numpy()))
        np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)

        form = {"params": json.dumps({"label_info": [{"name": "anterior"}, {"name": "posterior"}]})}
        answer = server.server.request("POST", f"/infer/hippocampus?image={whole}&output=dicom_seg", data=form)
        made = pydicom.dcmread(BytesIO(answer.content))
        assert [item.SegmentLabel for item in made.SegmentSequence] == ["anterior", "posterior"]
        assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == whole

        one_class = np.zeros(nib.load(path).shape, np.uint8)
        one_class[10:14, 10:14, 10:14] = 2
        nib.save(nib.Nifti1Image(one_class, nib.load(path).affine), tmp_path / "label.nii.gz")
        sitk.WriteImage(sitk.ReadImage(tmp_path / "label.nii.gz"), tmp_path / "label.nrrd")  # as a viewer sends it
        assert server.next_sample("spread")["id"] == whole, "what is refused is not offered"
        server.store(whole, tmp_path / "label.nrrd")
        listed = requests.get(f"{pacs.url}/series?Modality=SEG", auth=LOGIN, timeout=60).json()
        (stored,) = _instances(pacs, listed[0])
        assert {item.SegmentAlgorithmType for item in stored.SegmentSequence} == {"SEMIAUTOMATIC"}
        frames = {
            int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            for frame in stored.PerFrameFunctionalGroupsSequence
        }
        named = {int(item.SegmentNumber): item for item in stored.SegmentSequence}
        assert [named[number].SegmentLabel for number in frames] == ["posterior"]

        # Trained on is what the PACS has: the SEG, on the grid of its series.
        # As OHIF asks for it, which names no model: the way back is not gone at once.
        # There is one label: with none kept back the model that is served would not be replaced.
        options = {"hippocampus": {"max_epochs": 1, "device": "cpu", "val_split": 0}}
        assert list(server.server.request("POST", "/train/", json=options).json()) == ["hippocampus"]
        server.trained()
        assert "'published': True, 'training': 1, 'validation': 0, 'left_out': {}" in server.server.log


def _instances(pacs: Any, series: dict[str, Any]) -> Sequence[Any]:
    from dicomweb_client import DICOMwebClient

    session = requests.Session()
    session.auth = LOGIN
    client = DICOMwebClient(pacs.url, session=session)
    study, uid = (series[tag]["Value"][0] for tag in ("0020000D", "0020000E"))
    return client.retrieve_series(study, uid)
