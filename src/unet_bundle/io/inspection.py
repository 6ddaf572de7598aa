"""What a path holds that can be read, file by file or series by series."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from unet_bundle.errors import InputError
from unet_bundle.geometry import spacing_of
from unet_bundle.io.dicom.inspection import Inspected, Inspection, inspect_dicom, plane_of
from unet_bundle.io.dicom.sources import holds_dicom
from unet_bundle.io.layouts.mixed import too_many
from unet_bundle.io.layouts.names import VOLUME_SUFFIXES, is_scan, scans_in
from unet_bundle.io.readers import NiftiReader
from unet_bundle.io.volume_files import VolumeReader

LEFT_OUT = "is left out beside DICOM series: give predict the file itself"
"""What is said of the one scan in another format that lies in the folder of a DICOM study."""

EITHER = "Of a folder with DICOM series and several other scans predict takes neither: give it the folder of one kind."
"""What is said of a folder where either may be meant."""


def inspect_path(path: Path, *, show_descriptions: bool = False, show_paths: bool = False) -> Inspection:
    """Look at everything a path leads to: the volumes directly in a folder, and all DICOM below it.

    Args:
        path: a folder, a zip archive, a DICOMDIR or a file.
        show_descriptions: whether series descriptions are told, which may hold a patient's name.
        show_paths: whether paths of DICOM files are told, which may hold one, too.

    Raises:
        InputError: if nothing is there to read.
    """
    files = [path] if is_scan(path) else scans_in(path)
    volumes = tuple(inspect_file(file) for file in files if file.name.lower().endswith(VOLUME_SUFFIXES))
    if volumes and (is_scan(path) or not holds_dicom(path, beside_scans=True)):
        return Inspection(volumes, Counter())
    dicom = inspect_dicom(path, show_descriptions=show_descriptions, show_paths=show_paths)
    either = bool(dicom.volumes) and too_many(files)
    if dicom.volumes and not either:
        volumes = tuple(dataclasses.replace(each, left_out=LEFT_OUT) for each in volumes)
    return dataclasses.replace(dicom, volumes=(*volumes, *dicom.volumes), note=EITHER if either else None)


def inspect_file(path: Path) -> Inspected:
    """Look at a file of another format than DICOM. Values of its voxels are not looked at.

    Args:
        path: of a NIfTI, NRRD, MetaImage or MGH file. Its base name is shown.
    """
    size, spacing, plane, refusal = None, None, None, None
    try:
        shape, affine = grid_of(path)
        size = tuple(int(side) for side in shape)
        spacing = tuple(float(edge) for edge in spacing_of(affine))
        plane = plane_of(affine[:3, 2])
    except InputError as error:
        refusal = str(error)
    return Inspected(path.name, None, None, None, None, size, spacing, plane, 1, (), refusal)


def grid_of(path: Path) -> tuple[tuple[int, ...], Any]:
    """Shape and affine (RAS) of a file of another format than DICOM, checked as the reader does.

    Raises:
        InputError: if it is refused.
    """
    nifti = NiftiReader()
    if nifti.verify_suffix(path):
        file = nifti.read(path)
        return file.shape, np.asarray(file.affine)
    (volume,) = VolumeReader().read(path)
    return volume.voxels.shape, np.asarray(volume.affine)
