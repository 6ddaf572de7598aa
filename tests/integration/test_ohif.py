"""OHIF, as a MONAI Label server serves it, in a real browser: a study of a PACS is opened, segmented and looked at."""

import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from unet_bundle.io import LoadImaged
from unet_bundle.predictor import Predictor

pydicom = pytest.importorskip("pydicom", minversion="3.0")
requests = pytest.importorskip("requests")
pytestmark = pytest.mark.integration

LOGIN = ("reader", "not-on-the-command-line")
STUDY, SERIES, FRAME_OF_REFERENCE = (f"1.2.826.0.1.3680043.8.498.8.{number}" for number in (1, 2, 3))
SIZE = (1400, 900)
KEPT = (
    "ImageType", "Modality", "Manufacturer", "SliceThickness", "KVP", "PatientPosition",
    "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "PhotometricInterpretation",
    "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter",
    "WindowWidth", "RescaleIntercept", "RescaleSlope", "RescaleType", "PixelData",
)  # fmt: skip
"""What the copy of the series has of it: nothing of a person, a place or a time."""
CARD = """\
name: trunk_ct
title: Organs of the trunk in CT
modality: [CT]
labels: {background: 0, spleen: 1, liver: 2, stomach: 3, aorta: 4, vertebrae: 5}
label_values: {background: rest, spleen: 1, liver: 5, stomach: 6, aorta: 52, vertebrae: 25-50}
splits_file: splits.json
overrides:
  spacing: [5, 5, 5]
  patch_size: [64, 64, 8]
  batch_size: 2
  learning_rate: 0.003
  network:
    channels: [16, 32, 64, 96]
    strides: [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 1]]
    kernel_sizes: [[3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
"""
VALUES = {"spleen": 1, "liver": 2, "stomach": 3, "aorta": 4, "vertebrae": 5}
SPLITS = [{"train": ["series"], "val": ["other"]}]
FINE_WITHOUT = ("/assets/", "/train/?check_if_running=true")
"""In addresses: MONAI Label's viewer lacks some of its pictures, and 404 says that nothing is being trained."""
TRAINING = {"max_epochs": 8, "iterations_per_epoch": 25, "val_interval": 8, "num_workers": 0}
"""Seconds, on the very series that is shown: what is tested is the way of its labels to the screen."""


@pytest.fixture(scope="module")
def bundle(shared_data: Any, commands_in: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that knows the organs of the series."""
    examples, folder = shared_data("totalsegmentator_examples"), tmp_path_factory.mktemp("trained")
    data = folder / "data"
    for kind in ("images", "labels"):
        (data / kind).mkdir(parents=True)
    image = LoadImaged(keys="image")({"image": str(examples / "dicom" / "series")})["image"]
    given = nib.Nifti1Image(image[0].numpy().astype(np.int16), image.affine.numpy())
    nib.save(nib.as_closest_canonical(given), data / "images" / "series.nii.gz")
    labels = nib.load(examples / "dicom" / "example_ct_dicom_seg.nii.gz")
    nib.save(nib.as_closest_canonical(labels), data / "labels" / "series.nii.gz")
    shutil.copy(examples / "ct" / "example_ct_sm.nii.gz", data / "images" / "other.nii.gz")
    shutil.copy(examples / "ct" / "example_ct_sm_seg.nii.gz", data / "labels" / "other.nii.gz")
    (folder / "card.yaml").write_text(CARD)
    (folder / "splits.json").write_text(json.dumps(SPLITS))
    cli = commands_in(folder)
    cli.unet_bundle("plan", data, "--card", "card.yaml", "--output", "organs").succeeded()
    overrides = [word for name, value in TRAINING.items() for word in (f"--{name}", str(value))]
    cli.unet_bundle("train", "organs", data, *overrides).succeeded()
    return folder / "organs"


def copied(series: Path, folder: Path) -> list[Path]:
    """The series as one of a study of its own: the files lack the UIDs that a PACS needs."""
    folder.mkdir()
    copies = []
    for number, path in enumerate(sorted(series.iterdir()), 1):
        given = pydicom.dcmread(path)
        copy = pydicom.Dataset()
        for name in KEPT:
            if name in given:
                copy[name] = given[name]
        copy.StudyInstanceUID, copy.SeriesInstanceUID, copy.FrameOfReferenceUID = STUDY, SERIES, FRAME_OF_REFERENCE
        copy.SOPClassUID = given.file_meta.MediaStorageSOPClassUID
        copy.SOPInstanceUID = f"{SERIES}.{number}"
        copy.SeriesNumber, copy.SeriesDescription, copy.StudyDescription = 1, "trunk", "CT"
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
            setattr(copy, name, "")
        copy.AccessionNumber = copy.ReferringPhysicianName = ""
        copy.file_meta = pydicom.dataset.FileMetaDataset()
        copy.file_meta.TransferSyntaxUID = given.file_meta.TransferSyntaxUID
        copies.append(folder / f"{number:02d}.dcm")
        copy.save_as(copies[-1], enforce_file_format=True)
    return copies


@pytest.fixture
def series(shared_data: Any, tmp_path: Path) -> list[Path]:
    """Files of a real CT series, compressed by JPEG 2000."""
    return copied(shared_data("totalsegmentator_examples") / "dicom" / "series", tmp_path / "series")


@pytest.fixture
def pacs(servers: ModuleType, series: Sequence[Path], tmp_path: Path) -> Iterator[Any]:
    """Orthanc with that series, and with another study that nobody asks for."""
    with servers.orthanc(tmp_path / "orthanc", LOGIN) as server:
        for path in series:
            stored = server.url.replace("dicom-web", "instances")
            requests.post(stored, data=path.read_bytes(), auth=LOGIN, timeout=60).raise_for_status()
        yield server


def deepest(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """The pixel of a slice that is farthest from all that is not in the mask."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    assert depth.max() > 8, "nothing wide enough to be looked at"
    return tuple(map(int, np.unravel_index(depth.argmax(), depth.shape)))


def hue_of(pixel: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """What a pixel has beside grey, which stays what it is when a picture shines through."""
    return pixel - pixel.mean()


VIEWPORT = """
const shown = cornerstone.getRenderingEngines()[0].getViewports();
const viewport = shown.sort((one, other) => other.canvas.clientWidth - one.canvas.clientWidth)[0];
const frame = viewport.canvas.getBoundingClientRect();
"""
"""Of the page: the largest view, and where it stands."""
BUTTON = "return [...document.querySelectorAll('button, label')].find(one => one.innerText.trim() === arguments[0])"
COUNTS = """
const volume = services.segmentationService.getLabelmapVolume('1');
const voxels = volume.voxelManager.getCompleteScalarDataArray();
const [columns, rows, slices] = volume.dimensions;
const counts = Array.from({length: slices}, () => Array(arguments[0] + 1).fill(0));
voxels.forEach((label, place) => counts[Math.floor(place / (columns * rows))][label]++);
return counts;
"""
"""Of the page: how often each segment occurs in each slice of what is laid over the scan."""


def is_enlarged(browser: Any) -> bool:
    """Whether one view has all the room; else ask for that, which a page that is still busy does not hear."""
    wide = f"{VIEWPORT} return frame.width > 500"
    if not browser.run(wide):
        browser.double_click(*browser.run(f"{VIEWPORT} return [frame.x + 99, frame.y + 199]"))
        time.sleep(5)
    return bool(browser.run(wide))


class View:
    """The picture as a person sees it, and where in it the voxels of the series are."""

    def __init__(self, browser: Any, affine: npt.NDArray[np.floating]) -> None:
        self.browser = browser
        self.affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM's axes
        focus = browser.run(f"{VIEWPORT} return viewport.getCamera().focalPoint")
        self.slice = round((np.linalg.inv(self.affine) @ [*focus, 1.0])[2])

    def pixel(self, column: int, row: int) -> npt.NDArray[np.floating]:
        """Red, green and blue where a voxel of the slice is seen."""
        world = (self.affine @ [column, row, self.slice, 1.0])[:3].tolist()
        found = self.browser.run(
            f"{VIEWPORT} const [x, y] = viewport.worldToCanvas(arguments[0]); return [frame.x + x, frame.y + y]", world
        )
        with Image.open(BytesIO(self.browser.screenshot())) as picture:
            return np.asarray(picture.convert("RGB").getpixel(tuple(map(round, found))), float)


def test_organs_are_segmented_and_seen_in_a_browser(
    servers: ModuleType, browsers: ModuleType, bundle: Path, pacs: Any, series: Sequence[Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    netrc = {"NETRC": str(pacs.folder / "netrc"), "NO_PROXY": "127.0.0.1"}
    for name, value in netrc.items():
        monkeypatch.setenv(name, value)
    image = LoadImaged(keys="image")({"image": str(series[0].parent)})["image"]
    with (
        servers.own_app(tmp_path, bundle, pacs.url, **netrc) as server,
        browsers.chromium(servers, tmp_path / "browser", SIZE) as browser,
    ):
        browser.open(f"{server.server.url}/ohif/")
        browser.click(
            "the study", "return [...document.querySelectorAll('tbody tr')].find(row => /CT/.test(row.innerText))"
        )
        browser.click("the way to the viewer", BUTTON, "MONAI Label")
        browser.click("the notice that this is research", BUTTON, "Confirm and Hide")
        browser.wait_for("the slices", "return document.body.innerText.includes('/20)')")
        browser.wait_until("one view", lambda: is_enlarged(browser))
        view = View(browser, image.affine.numpy())
        labels = Predictor(bundle, device="cpu")(series[0].parent)[0].numpy()
        shown, scan = labels[..., view.slice], image[0, ..., view.slice].numpy()
        places = {name: deepest(shown == VALUES[name]) for name in ("liver", "spleen")}
        places["nothing"] = deepest((shown == 0) & (scan > 0))
        browser.wait_until("the scan", lambda: view.pixel(*places["liver"]).min() > 60)
        for name, place in places.items():
            assert np.ptp(view.pixel(*place)) == 0, f"{name} is grey before"

        assert browser.run("return document.getElementById('monailabelServerURL').value") == f"{server.server.url}/"
        browser.click("the button that connects", "return document.querySelector('.settingsTable button')")
        browser.click("the button that segments", BUTTON, "Run")
        counts = browser.wait_for(
            "labels", f"{COUNTS.replace('return counts', 'return voxels.some(Boolean) && counts')}", len(VALUES)
        )
        names = sorted(VALUES)  # as the viewer numbers them
        expected = [[int((labels[..., k] == VALUES[name]).sum()) for name in names] for k in range(labels.shape[2])]
        assert [slice_[1:] for slice_ in counts] == expected, "each structure in each slice"

        browser.click("the list of structures", BUTTON, "Class Prompts")
        rows = browser.wait_for(
            "names and colours",
            "return [...document.querySelectorAll('.optionsTable tr .segColor')].map(color => "
            "[color.closest('tr').innerText.trim(), getComputedStyle(color).backgroundColor])",
        )
        assert {name for name, _ in rows} - {"background"} == set(names)
        colors = {name: np.asarray(re.findall(r"\d+", color)[:3], float) for name, color in rows}
        browser.wait_until("the overlay", lambda: np.ptp(view.pixel(*places["liver"])) > 5)
        for name in ("liver", "spleen"):
            wanted = hue_of(colors[name])
            found = hue_of(view.pixel(*places[name]))
            alike = found @ wanted / (np.linalg.norm(found) * np.linalg.norm(wanted))
            assert alike > 0.97, f"{name}: {found} is not of the hue of {wanted}"
        assert np.ptp(view.pixel(*places["nothing"])) == 0, "what is no structure has no colour"
        (tmp_path / "ohif.png").write_bytes(browser.screenshot())

        loaded = browser.loaded()
        assert any("/frames/1" in url for url in loaded)
        assert [url for url in loaded if not url.startswith(f"{server.server.url}/")] == [], "nobody else is asked"
        fine = (200, None)  # what has no answer yet has not failed
        failed = [url for url, status in loaded.items() if status not in fine]
        assert [url for url in failed if not any(part in url for part in FINE_WITHOUT)] == []
