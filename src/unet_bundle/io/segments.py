"""What the classes of a label map are called, how they are shown, and the codes of what they are."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from unet_bundle.errors import ConfigError

MAX_LABEL = 64
"""Longest name of a segment in DICOM (value representation LO)."""

OWN_SCHEME = "99UNETBUNDLE"
"""Coding scheme of structures for which nobody gave a code; 99 marks a private one (PS3.16 8.2)."""

ANATOMY = {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"}
"""SNOMED CT category of a structure for which nobody gave one."""

ARTIFICIAL_INTELLIGENCE = {"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"}
"""Family of an algorithm that states none (PS3.16 CID 7162)."""

_PARTS = {"value": MAX_LABEL, "scheme": 16, "meaning": MAX_LABEL}
_TURN = 0.618034  # of the hue from a class to the next: golden section, so that neighbours differ most

Code = Mapping[str, str]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Segment:
    """One class of a label map.

    Attributes:
        name: for people.
        value: in the label map, from 1; also its number in a DICOM SEG.
        color: red, green, blue, 0 to 255.
        codes: by ``category``, ``type``, ``type_modifier``, ``region`` and ``region_modifier``: coded terms with
            ``value``, ``scheme`` and ``meaning``; the first two are always there.
    """

    name: str
    value: int
    color: Color
    codes: Mapping[str, Code] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name as DICOM can hold it."""
        return long_string(self.name)


def code_parts(code: Any) -> tuple[str, str, str]:
    """Value, scheme and meaning of a coded term.

    Raises:
        ConfigError: if one is missing, or longer than DICOM can hold (PS3.3 8).
    """
    parts = tuple(str(code.get(part, "")) for part in _PARTS) if isinstance(code, Mapping) else ("", "", "")
    if not all(0 < len(text) <= longest for text, longest in zip(parts, _PARTS.values(), strict=True)):
        raise ConfigError(
            f"{code!r} is no coded term: give value, scheme and meaning, of {MAX_LABEL} letters at most, the scheme 16"
        )
    value, scheme, meaning = parts
    return value, scheme, long_string(meaning)


def long_string(text: object) -> str:
    """A text as DICOM can hold it (value representation LO): a line without backslashes, of `MAX_LABEL` letters."""
    return " ".join(str(text).replace("\\", "/").split())[:MAX_LABEL].strip()


def segments_of(described: Mapping[str, Mapping[str, Any]] | None, labels: npt.NDArray[Any]) -> list[Segment]:
    """The classes of a label map in the order of their values, also those that do not occur in it.

    Args:
        described: name of each class to its ``value`` and, where known, ``color`` and coded terms: ``label_terms`` of a
            bundle's metadata.json. None: classes are named after their values.
        labels: the label map.

    Raises:
        ConfigError: if a value is no whole number from 1, two classes have the same, or the label map has one that is
            not described.
    """
    found = values_in(labels)
    if described is None:
        described = {f"label {value}": {"value": value} for value in range(1, max([1, *found]) + 1)}
    segments = sorted((_segment(name, terms) for name, terms in described.items()), key=lambda each: each.value)
    values = [segment.value for segment in segments]
    if len(set(values)) < len(values):
        raise ConfigError(f"two segments have the same value ({values}): give each its own")
    unknown = found - {*values}
    if unknown:
        raise ConfigError(f"the label map has value {min(unknown)}, which no segment has: describe it in 'segments'")
    return segments


def values_in(labels: npt.NDArray[Any]) -> set[int]:
    """The values of a label map but 0; slice by slice, since counting copies to 64 bits."""
    found: set[int] = set()
    for part in labels:
        found.update(map(int, np.flatnonzero(np.bincount(part.ravel()))))
    return found - {0}


def _segment(name: str, terms: Mapping[str, Any]) -> Segment:
    value = terms.get("value")
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= np.iinfo(np.uint16).max:
        raise ConfigError(f"segment {name!r} has value {value!r}: it must be a whole number from 1 to 65535")
    codes = {key: code for key, code in terms.items() if isinstance(code, Mapping)}
    own = {"value": f"LABEL{value}", "scheme": OWN_SCHEME, "meaning": long_string(name)}
    red, green, blue = terms.get("color") or [
        round(255 * part) for part in colorsys.hsv_to_rgb(_TURN * (value - 1) % 1, 0.6, 0.9)
    ]
    return Segment(name, value, (red, green, blue), {"category": ANATOMY, "type": own, **codes})
