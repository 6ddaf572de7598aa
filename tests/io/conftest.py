import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

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
