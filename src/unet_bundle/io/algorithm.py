"""What made a result: as the configs state it, as DICOM results say it, and read from them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_bundle import __version__
from unet_bundle.io.segments import ARTIFICIAL_INTELLIGENCE, Code, long_string

MANUFACTURER = "unet-bundle"
AUTOMATIC, SEMIAUTOMATIC = "AUTOMATIC", "SEMIAUTOMATIC"
"""What DICOM calls a result that a program made by itself, and one that a person had a hand in."""

_IDENTIFICATION = {
    "SegmentSequence": "SegmentationAlgorithmIdentificationSequence",
    "StructureSetROISequence": "ROIDerivationAlgorithmIdentificationSequence",
}
"""Where a SEG and an RTSTRUCT hold, for each structure, the algorithm that drew it (PS3.3 10.16)."""


@dataclass(frozen=True)
class Algorithm:
    """What made a label map.

    Attributes:
        name: AlgorithmName, as DICOM can hold it.
        version: AlgorithmVersion, likewise.
        family: coded term, see `unet_bundle.io.segments.ARTIFICIAL_INTELLIGENCE`.
        type: SegmentAlgorithmType, `AUTOMATIC`; `SEMIAUTOMATIC` where a person had a hand in it.
    """

    name: str
    version: str
    family: Code
    type: str = AUTOMATIC

    @classmethod
    def of(cls, stated: Mapping[str, Any] | None) -> Algorithm:
        """From a config's ``algorithm``: ``name``, ``version``, ``family``, ``type``; without it, this package."""
        values = stated or {}
        return cls(
            long_string(values.get("name") or MANUFACTURER),
            long_string(values.get("version") or __version__),
            values.get("family") or ARTIFICIAL_INTELLIGENCE,
            values.get("type") or AUTOMATIC,
        )

    def made(self, path: Path) -> bool:
        """Whether a DICOM result says that this algorithm, in this version, made it."""
        import pydicom

        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_IDENTIFICATION))
            found = {
                (str(algorithm.AlgorithmName), str(algorithm.AlgorithmVersion))
                for structures, identification in _IDENTIFICATION.items()
                for structure in dataset.get(structures) or []
                for algorithm in structure.get(identification) or []
            }
        except (OSError, pydicom.errors.InvalidDicomError, AttributeError, ValueError):
            return False
        return found == {(self.name, self.version)}
