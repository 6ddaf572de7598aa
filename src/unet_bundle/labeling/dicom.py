"""DICOM in the server: our reader and our SEG writer, in a process of their own.

MONAI Label needs pydicom 2, ours pydicom 3: `make label-env` puts that into a folder beside the environment's packages,
which only this process sees.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unet_bundle.errors import InputError
from unet_bundle.io.dicomweb import ANY_SYNTAX

PACKAGES = "dicom3"
"""Folder in MONAI Label's environment with pydicom 3 and highdicom."""
NOT_GIVEN = "the PACS did not give the series: try again, or ask its operator"


class DicomTools:
    """What MONAI Label's datastore needs of DICOM, with the names of its own functions.

    Args:
        bundle: folder of the bundle that says how series are read and what structures are called.
    """

    def __init__(self, bundle: Path) -> None:
        self.bundle = Path(bundle)

    def dicom_to_nifti(self, series_dir: str, is_seg: bool = False) -> str:
        """A series, or a SEG of one, as NIfTI.

        Args:
            series_dir: folder of the series, or of the SEG; the series of a SEG lies in the same cache.
            is_seg: which of them.

        Raises:
            InputError: the series is refused, with the reader's line.
        """
        return self._run("labels" if is_seg else "image", [series_dir], ".nii.gz")

    def nifti_to_dicom_seg(
        self,
        series_dir: str,
        label: str,
        label_info: Sequence[dict[str, Any]] | None = None,  # noqa: ARG002 - names are the bundle's, by value
        file_ext: str = "*",  # noqa: ARG002
        use_itk: bool = True,  # noqa: ARG002
    ) -> str:
        """A label map as DICOM SEG of its series, with the bundle's names, colours and coded terms.

        Raises:
            InputError: it is not on the grid of the series, or the series lacks what a SEG must refer to.
        """
        return self._run("seg", [series_dir, label], ".dcm")

    def annotation_to_dicom_seg(self, series_dir: str, label: str, *_others: Any) -> str:
        """The same of a label map that an annotator stores: the SEG says that a person had a hand in it.

        Raises:
            InputError: see `nifti_to_dicom_seg`.
        """
        return self._run("annotation", [series_dir, label], ".dcm")

    def _run(self, what: str, paths: Sequence[str], suffix: str) -> str:
        handle, output = tempfile.mkstemp(suffix=suffix)
        os.close(handle)
        packages = Path(sys.prefix) / PACKAGES
        path = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        line = [sys.executable, "-W", "ignore", "-m", "unet_bundle.labeling.dicom_worker"]
        done = subprocess.run(  # noqa: S603
            [*line, what, str(self.bundle), *map(str, paths), output],
            env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            Path(output).unlink(missing_ok=True)
            last = (done.stderr.rstrip().splitlines() or ["it ended without a word"])[-1]
            raise InputError(last.removeprefix("Error: "))
        return output


def download_series(study: str | None, series: str, save_dir: str, client: Any, _by_frame: bool = False) -> None:
    """Write the files of a series as the PACS has them, compressed or not.

    MONAI Label's own function, whose arguments these are, wants them uncompressed: a PACS that cannot do that refuses.

    Args:
        study: UID; None: the PACS is asked.
        series: UID.
        save_dir: folder; it appears when all files are there, since the server takes what is in it for the series.
        client: of dicomweb-client.

    Raises:
        InputError: the PACS has no such series, refuses, does not answer, or gives files of another series.
    """
    import requests
    from pydicom.errors import InvalidDicomError

    folder = Path(save_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    count = 0
    try:
        for dataset in client.iter_series(study or _study_of(series, client), series, media_types=ANY_SYNTAX):
            if dataset.get("SeriesInstanceUID") != series:
                raise InputError(NOT_GIVEN)
            count += 1
            dataset.save_as(part / f"{count:06d}.dcm")  # the UID in it could be any text, also a path
        if count == 0:
            raise InputError(NOT_GIVEN)
        _put(part, folder)
    except (requests.RequestException, InvalidDicomError) as error:
        raise InputError(NOT_GIVEN) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _put(part: Path, folder: Path) -> None:
    try:
        part.replace(folder)
    except OSError:
        if not (folder.is_dir() and any(folder.iterdir())):  # else it was fetched twice at once, and is there
            raise


def _study_of(series: str, client: Any) -> str:
    for entry in client.search_for_series(search_filters={"SeriesInstanceUID": series}):
        if entry["0020000E"]["Value"] == [series]:
            return str(entry["0020000D"]["Value"][0])
    raise InputError("the PACS has no such series: it may have been deleted")


def reading_options(bundle: Path) -> dict[str, Any]:
    """How a bundle reads DICOM: ``dicom`` of its inference.json."""
    config = json.loads((bundle / "configs" / "inference.json").read_text(encoding="utf-8"))
    options: dict[str, Any] = config.get("dicom") or {}
    return options
