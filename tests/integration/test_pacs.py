"""A real Orthanc on loopback: a CT study stored, found, segmented, its result stored and fetched back."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from unet_bundle.errors import InputError
from unet_bundle.io import DicomSeriesReader
from unet_bundle.io.dicomweb import DicomWeb

pydicom = pytest.importorskip("pydicom", minversion="3.0")
highdicom = pytest.importorskip("highdicom")
requests = pytest.importorskip("requests")
pytest.importorskip("dicomweb_client")
pytestmark = pytest.mark.integration

USER, PASSWORD = "reader", "not-on-the-command-line"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
STUDY, SERIES, MR_SERIES, MR_STUDY = "1.2.826.0.1.77.1", "1.2.826.0.1.77.2", "1.2.826.0.1.77.5", "1.2.826.0.1.77.6"
PLANTED = ("PLANTED^NAME", "PLANTED-ID-77", "19010203")


@pytest.fixture(scope="module")
def server(servers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Orthanc on a free port of loopback, with a login."""
    with servers.orthanc(tmp_path_factory.mktemp("orthanc"), (USER, PASSWORD)) as running:
        yield running


@pytest.fixture
def login(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(server.folder / "netrc"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def ct_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CT bundle with weights as they are before any training."""
    from unet_bundle.io import find_cases, read_dataset_json
    from unet_bundle.phantom import make_phantom, phantom_card
    from unet_bundle.planning.bundle import bundle_files, write_bundle
    from unet_bundle.planning.card import load_card
    from unet_bundle.planning.fingerprint import measure_fingerprint
    from unet_bundle.planning.plan import make_plan

    folder = tmp_path_factory.mktemp("ct")
    data = make_phantom(folder / "data", cases=3)
    overrides = {"spacing": [6.0, 6.0, 6.0], "patch_size": [32, 32, 16], "network": {"channels": [4, 8, 8, 8]}}
    stated = {**yaml.safe_load(phantom_card()), "modality": ["CT"], "folds": 3, "overrides": overrides}
    (folder / "card.yaml").write_text(yaml.safe_dump(stated))
    card = load_card(folder / "card.yaml", read_dataset_json(data))
    fingerprint = measure_fingerprint(find_cases(data), card, progress=False)
    files = bundle_files(make_plan(fingerprint, card), fingerprint, card)
    write_bundle(files, folder / "bundle")
    network = json.loads(files["configs/inference.json"])["network_def"]
    torch.manual_seed(0)
    state = ConfigParser({"network": network}).get_parsed_content("network").state_dict()
    torch.save(state, folder / "bundle" / "models" / "model.pt")
    return folder / "bundle"


@pytest.fixture(scope="module")
def study(shared_data: Any, synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The CT series with UIDs and planted names, and a small MR series in the same study."""
    source = shared_data("totalsegmentator_examples") / "dicom" / "series"
    folder = tmp_path_factory.mktemp("study")
    for number, path in enumerate(sorted(source.iterdir()), 1):
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CT_IMAGE_STORAGE
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.{number}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, SERIES
        dataset.FrameOfReferenceUID, dataset.SeriesNumber = "1.2.826.0.1.77.3", 2
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = PLANTED
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)

    def same_study(_index: int, dataset: Any) -> None:
        dataset.StudyInstanceUID = STUDY

    mr = synthetic.write_series(folder / "mr", modality="MR", series=5, edit=same_study)
    return [*sorted(folder.glob("*.dcm")), *mr.files]


@pytest.mark.usefixtures("login")
def test_a_study_stored_found_segmented_and_its_result_fetched_back(
    server: Any, ct_bundle: Path, study: list[Path], cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = DicomWeb(server.url)
    web.store(study)
    found = {series.modality: series for series in web.series(STUDY)}
    assert {modality: series.count for modality, series in found.items()} == {"CT": 20, "MR": 8}
    assert found["CT"].uid == SERIES

    web.fetch(STUDY, found["CT"], tmp_path / "fetched")
    reader = DicomSeriesReader(modality="CT")
    array, meta = reader.get_data(reader.read(tmp_path / "fetched"))
    original, other = reader.get_data(reader.read(study[0].parent))
    np.testing.assert_array_equal(array, original)
    np.testing.assert_array_equal(meta["affine"], other["affine"])

    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    result = cli.unet_bundle(
        "predict", ct_bundle, tmp_path / "out", "--dicomweb", server.url, "--study", STUDY, "--store"
    ).succeeded()
    assert "1 of 1 scans segmented" in result.out
    assert "MR series 5" in result.out
    assert "the model needs CT" in result.out
    assert "1 result stored" in result.out
    for planted in (*PLANTED, "PLANTED", PASSWORD):
        assert planted not in result.text
    assert cli.files(tmp_path / "temporary") == [], "nothing of the study stays on the disk"
    assert cli.files(tmp_path / "out") == [f"{SERIES}_seg.dcm", "volumes.csv"]

    (stored,) = [series for series in web.series(STUDY) if series.modality == "SEG"]
    web.fetch(STUDY, stored, tmp_path / "seg")
    fetched = highdicom.seg.segread(tmp_path / "seg" / "000001.dcm")
    written = highdicom.seg.segread(tmp_path / "out" / f"{SERIES}_seg.dcm")
    assert fetched.SOPInstanceUID == written.SOPInstanceUID
    np.testing.assert_array_equal(fetched.pixel_array, written.pixel_array)
    sources = {str(uid) for _, _, uid in fetched.get_source_image_uids()}
    assert sources <= {f"{SERIES}.{number}" for number in range(1, 21)}

    again = cli.unet_bundle(
        "predict", ct_bundle, tmp_path / "out", "--dicomweb", server.url, "--study", STUDY, "--series", SERIES
    ).succeeded()
    assert "already there and skipped" in again.out


@pytest.mark.usefixtures("login")
def test_what_the_server_does_not_have(
    server: Any, ct_bundle: Path, study: list[Path], cli: Any, tmp_path: Path
) -> None:
    DicomWeb(server.url).store(study)
    line = ["predict", ct_bundle, tmp_path / "out", "--dicomweb"]
    host = server.url.split("/")[2]
    cli.unet_bundle(*line, server.url, "--study", "1.2.3.4").refused(f"{host} has no such study", 1)
    wrong = [*line, server.url, "--study", STUDY, "--series"]
    cli.unet_bundle(*wrong, "1.2.3.4").refused(f"{host} has no such series", 1)
    cli.unet_bundle(*wrong, "1.2.826.0.1.3680043.8.498.0.5.2").refused("is MR, the model needs CT", 1)
    cli.unet_bundle(*line, f"{server.url}/nowhere", "--study", STUDY).refused("HTTP 404", 1)
    cli.unet_bundle(*line, server.url.replace("dicom-web", "system"), "--study", STUDY).refused(host, 1)
    assert not (tmp_path / "out").exists()


def test_a_login_that_is_missing_or_wrong(
    server: Any, ct_bundle: Path, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    line = ["predict", ct_bundle, tmp_path / "out", "--dicomweb", server.url, "--study", STUDY]
    for password in (None, "wrong-password"):
        path = tmp_path / "netrc"
        path.write_text("" if password is None else f"machine 127.0.0.1 login {USER} password {password}\n")
        path.chmod(0o600)
        monkeypatch.setenv("NETRC", str(path))
        result = cli.unet_bundle(*line)
        result.refused("refuses access (HTTP 401)", 1)
        assert "wrong-password" not in result.text


@pytest.mark.usefixtures("login")
def test_a_result_that_the_server_does_not_keep(server: Any, tmp_path: Path) -> None:
    path = tmp_path / "result.dcm"
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.PatientName = PLANTED[0]
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    path.write_bytes(bytes(128) + b"DICM" + path.read_bytes())
    with pytest.raises(InputError) as refusal:
        DicomWeb(server.url).store([path])
    assert PLANTED[0] not in str(refusal.value)
