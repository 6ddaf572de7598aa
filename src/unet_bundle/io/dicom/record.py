"""Where the voxels of a volume came from: what a writer needs to refer to the source or to return to its slices."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unet_bundle.io.dicom.frames import Frame
from unet_bundle.io.dicom.grouping import instance_uid
from unet_bundle.io.dicom.multiframe import MAX_FRAMES
from unet_bundle.io.dicom.sources import Source
from unet_bundle.io.dicom.stack import Stack


@dataclass(frozen=True)
class SourceSlice:
    """One plane of the source.

    Attributes:
        path: of its file or of the archive that holds it.
        member: name in the archive; None for a plain file.
        frame: index in the file, from 0.
        corner: row and column of its first voxel in the frame's picture; not 0, 0 for tiles of a mosaic only.
        sop_class_uid: of its object.
        sop_instance_uid: of its object.
        position: ImagePositionPatient, mm, LPS.
        frames: how many its object has.
    """

    path: str
    member: str | None
    frame: int
    corner: tuple[int, int]
    sop_class_uid: str
    sop_instance_uid: str
    position: tuple[float, float, float]
    frames: int = 1

    @property
    def frame_number(self) -> int | None:
        """ReferencedFrameNumber of a reference to it; None where the reference is to the whole object (PS3.3 10.3)."""
        return self.frame + 1 if self.frames > 1 else None

    @property
    def source(self) -> Source:
        """The file, to read it again."""
        return Source(Path(self.path), self.member)


@dataclass(frozen=True)
class SourceSeries:
    """The planes that a volume was made of, in its order (the lowest along the normal first).

    It holds paths, which may name a patient: it stays in the process and is never logged or written.

    Attributes:
        orientation: six cosines, ImageOrientationPatient.
        pixel_spacing: mm between rows and between columns.
        shape: columns, rows and planes.
        resampled: whether the volume is on another grid than these planes (tilt or gaps):
            `unet_bundle.io.dicom.resampling.to_source_slices` brings a label map back to them.
        slices: the planes.
    """

    orientation: tuple[float, ...]
    pixel_spacing: tuple[float, float]
    shape: tuple[int, int, int]
    resampled: bool
    slices: tuple[SourceSlice, ...]

    @property
    def positions(self) -> npt.NDArray[np.float64]:
        """ImagePositionPatient of every plane, [planes, 3], mm, LPS."""
        return np.array([each.position for each in self.slices], dtype=np.float64)

    def to_json(self) -> str:
        """As text: what passes through MONAI's collation and worker processes unharmed."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "SourceSeries":
        """Back from the text of `to_json`, which stands in the metadata as ``dicom_source``."""
        values: dict[str, Any] = json.loads(text)
        slices = tuple(SourceSlice(**{key: _tuples(value) for key, value in each.items()}) for each in values["slices"])
        rest = {field.name: _tuples(values[field.name]) for field in fields(cls) if field.name != "slices"}
        return cls(**rest, slices=slices)


def record_of(stack: Stack, *, resampled: bool) -> SourceSeries:
    """The record of a stack."""
    first = stack.frames[0]
    return SourceSeries(
        orientation=tuple(float(cosine) for cosine in first.orientation.ravel()),
        pixel_spacing=first.pixel_spacing,
        shape=(first.shape[1], first.shape[0], len(stack.frames)),
        resampled=resampled,
        slices=tuple(_slice(frame) for frame in stack.frames),
    )


def _slice(frame: Frame) -> SourceSlice:
    header = frame.header
    meta = getattr(header.dataset, "file_meta", None)
    x, y, z = (float(value) for value in frame.position)
    return SourceSlice(
        path=str(header.source.path.absolute()),
        member=header.source.member,
        frame=frame.index,
        corner=frame.corner,
        sop_class_uid=header.text("SOPClassUID") or str((meta.get("MediaStorageSOPClassUID") if meta else None) or ""),
        sop_instance_uid=instance_uid(header),
        position=(x, y, z),
        frames=header.whole("NumberOfFrames", 0, MAX_FRAMES, default=1),
    )


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
