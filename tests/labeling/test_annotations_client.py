"""Which segmentations of a PACS are labels."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.labeling.annotations_client import AnnotationsClient
from unet_bundle.labeling.dicom_worker import main

pydicom = pytest.importorskip("pydicom", minversion="3.0")
pytest.importorskip("highdicom")

ROOT = Path(__file__).resolve().parents[2]


class Pacs:
    """What is asked of a client, with the metadata of some series of one study."""

    base_url = "http://pacs"

    def __init__(self, held: dict[str, Any]) -> None:
        self.held = held
        self.asked: list[str] = []

    def search_for_series(self, search_filters: dict[str, Any]) -> list[dict[str, Any]]:
        found = [{"0020000D": {"Value": ["1.2"]}, "0020000E": {"Value": [uid]}} for uid in self.held]
        return found if search_filters else [*found, {"0020000D": {"Value": ["1.2"]}, "0020000E": {"Value": ["image"]}}]

    def retrieve_series_metadata(self, _study: str, series: str) -> list[dict[str, Any]]:
        self.asked.append(series)
        return [self.held[series]]


@pytest.fixture
def pacs(tmp_path: Path, synthetic: ModuleType) -> Pacs:
    """With an inference's result, an annotator's label, and one that another program does not call anything."""
    series = synthetic.write_series(tmp_path / "series", modality="MR", signed=False, bits=12).folder
    bundle, image = str(ROOT / "bundle"), tmp_path / "image.nii.gz"
    assert main(["image", bundle, str(series), str(image)]) == 0
    labels = np.zeros(nib.load(image).shape, np.uint8)
    labels[2:5, 3:6, 2:4] = 1
    nib.save(nib.Nifti1Image(labels, nib.load(image).affine), tmp_path / "label.nii.gz")
    held = {}
    for kind in ("seg", "annotation"):
        assert main([kind, bundle, str(series), str(tmp_path / "label.nii.gz"), str(tmp_path / f"{kind}.dcm")]) == 0
        held[kind] = json.loads(pydicom.dcmread(tmp_path / f"{kind}.dcm").to_json())
    return Pacs({**held, "bare": {}})


def test_a_result_of_a_program_is_no_label_and_what_an_annotator_stored_is(pacs: Pacs):
    client = AnnotationsClient(pacs)
    for _ in range(2):
        found = client.search_for_series(search_filters={"Modality": "SEG"})
        assert [series["0020000E"]["Value"][0] for series in found] == ["annotation", "bare"]
    assert sorted(pacs.asked) == ["annotation", "bare", "seg"], "each is looked at once"


def test_other_searches_and_requests_are_the_clients(pacs: Pacs):
    client = AnnotationsClient(pacs)
    assert len(client.search_for_series(search_filters={})) == 4
    assert client.base_url == "http://pacs"
    assert pacs.asked == []
