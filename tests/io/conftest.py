import gzip
import importlib.util
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from unet_bundle.io import LoadImaged

SHAPE = (14, 12, 9)

ORIENTATIONS = {
    "RAS": np.array([[1.0, 0, 0, -5], [0, 1.5, 0, -7], [0, 0, 2.0, 11], [0, 0, 0, 1]]),
    "LAS": np.array([[-1.0, 0, 0, 5], [0, 1.5, 0, -7], [0, 0, 2.0, 11], [0, 0, 0, 1]]),
    "LPS": np.array([[-1.0, 0, 0, 5], [0, -1.5, 0, 7], [0, 0, 2.0, 11], [0, 0, 0, 1]]),
    "PSR": np.array([[0.0, 0, 2.0, 5], [-1.0, 0, 0, 7], [0, 1.5, 0, 11], [0, 0, 0, 1]]),
    "oblique": nib.affines.from_matvec(
        nib.eulerangles.euler2mat(z=0.2, y=-0.1, x=0.3) @ np.diag([-1.0, 1.5, 2.0]), [40.3, -7.1, 11.9]
    ),
}


@pytest.fixture(scope="session")
def affine_of() -> Callable[[str], np.ndarray]:
    """A function from the name of an orientation to an affine with voxels of 1, 1.5 and 2 mm."""
    return ORIENTATIONS.__getitem__


@pytest.fixture
def labels() -> np.ndarray:
    """A label map without symmetry: two boxes of different size, away from each other."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:9, 3:10, 1:7] = 1
    labels[10:13, 2:6, 2:6] = 2
    return labels


@pytest.fixture
def write_nifti(tmp_path: Path, labels: np.ndarray) -> Callable[..., Path]:
    """A function that writes a NIfTI file with the header that is asked for."""

    def write(
        name: str = "case_001.nii.gz",
        data: np.ndarray | None = None,
        affine: np.ndarray | str = "RAS",
        image_class: Any = nib.Nifti1Image,
        endianness: str = "<",
        sform: tuple[np.ndarray | None, int] | None = None,
        qform: tuple[np.ndarray | None, int] | None = None,
        units: str = "mm",
        **fields: Any,
    ) -> Path:
        voxels = labels if data is None else data
        header = image_class.header_class(endianness=endianness)
        header.set_data_dtype(voxels.dtype)
        image = image_class(voxels, ORIENTATIONS[affine] if isinstance(affine, str) else affine, header)
        image.set_sform(image.affine, code=1)
        image.set_qform(image.affine, code=1)
        if sform is not None:
            image.set_sform(sform[0], code=sform[1])
        if qform is not None:
            image.set_qform(qform[0], code=qform[1])
        image.header.set_xyzt_units(units)
        contents = bytearray(image.to_bytes())
        if fields:  # set in the bytes, since nibabel would put them right
            written = image_class.header_class.from_fileobj(io.BytesIO(contents), check=False)
            for field, value in fields.items():
                written[field] = value
            contents[: len(written.binaryblock)] = written.binaryblock
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(contents, 1) if name.lower().endswith(".gz") else contents)
        return path

    return write


def _module(name: str, path: str) -> ModuleType:
    """A module that lies beside the tests: folders of tests are no packages."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The module that makes DICOM series to order."""
    pytest.importorskip("pydicom", minversion="3.0")
    return _module("synthetic_dicom", "dicom/synthetic.py")


@pytest.fixture(scope="session")
def volumes() -> ModuleType:
    """The module that makes volumes in every format and reads them independently."""
    pytest.importorskip("SimpleITK")
    return _module("volumes", "volumes.py")


@pytest.fixture
def write_volume(volumes: ModuleType, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a header field by field (None leaves one out) and voxels behind it."""
    return lambda name, fields, contents=None: volumes.write(tmp_path, name, fields, contents)


TERMS = {
    "lobe": {
        "value": 1,
        "color": [200, 30, 10],
        "category": {"value": "123037004", "scheme": "SCT", "meaning": "Anatomical Structure"},
        "type": {"value": "10200004", "scheme": "SCT", "meaning": "Liver"},
        "type_modifier": {"value": "7771000", "scheme": "SCT", "meaning": "Left"},
        "region": {"value": "113345001", "scheme": "SCT", "meaning": "Abdomen"},
    },
    "absent": {"value": 2, "color": [0, 255, 0]},
    "vessel": {"value": 3},
}


@pytest.fixture(scope="session")
def terms() -> dict[str, dict[str, Any]]:
    """Three segments: one with all its codes, one that no label map of these tests holds, one without codes."""
    return TERMS


@pytest.fixture
def segmented(synthetic: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """A function that writes a series and gives it with its label map, as it comes before `SaveImaged`."""

    def make(kind: str = "axial", **options: Any) -> tuple[Any, MetaTensor]:
        lean = {"tilt": {"lean": (0.0, 0.2)}, "gaps": {"depths": (0, 2, 4, 8, 10, 12, 16, 18)}}
        options = {"shape": (13, 11, 8), **lean.get(kind, {"orientation": kind}), **options}
        series = synthetic.write_series(tmp_path / kind, **options)
        return series, label_of(series.folder)

    return make


def label_of(path: Any) -> MetaTensor:
    """A label map without symmetry, with a hole, on the grid that a DICOM series is read on."""
    image = LoadImaged(keys="image", dicom={"on_tilt": "resample", "on_gaps": "resample"})({"image": path})["image"]
    labels = torch.zeros_like(image)
    labels[0, 2:8, 3:8, 1:6], labels[0, 4:6, 5, 2:4], labels[0, 8:11, 2:5, 3:8] = 1, 0, 3
    return labels
