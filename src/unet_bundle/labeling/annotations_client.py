"""Which segmentations of a PACS are labels: those that a person had a hand in."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from unet_bundle.io.algorithm import AUTOMATIC

logger = logging.getLogger(__name__)

STUDY, SERIES, SEGMENTS, ALGORITHM_TYPE = "0020000D", "0020000E", "00620002", "00620008"
"""Tags, as DICOM's JSON has them."""


class AnnotationsClient:
    """A client of dicomweb-client that finds no SEG that a program made by itself, such as our own `predict`.

    MONAI Label takes every SEG of a series for a label that is done: the scan would not be offered for labelling any
    more, and the next model would be trained on what the last one found.

    Args:
        client: does everything else.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._automatic: dict[str, bool] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def search_for_series(self, *options: Any, **others: Any) -> list[dict[str, Any]]:
        """As the client's; of a search for SEG what people made or corrected."""
        found: list[dict[str, Any]] = self._client.search_for_series(*options, **others)
        if (others.get("search_filters") or {}).get("Modality") != "SEG":
            return found
        return [series for series in found if not self._is_automatic(series)]

    def _is_automatic(self, series: Mapping[str, Any]) -> bool:
        study, uid = (str(series[tag]["Value"][0]) for tag in (STUDY, SERIES))
        if uid not in self._automatic:
            metadata = self._client.retrieve_series_metadata(study, uid)
            self._automatic[uid] = bool(metadata) and all(map(is_automatic, metadata))
            if self._automatic[uid]:
                logger.info("a segmentation in the PACS was made by a program alone: it is no label")
        return self._automatic[uid]


def is_automatic(seg: Mapping[str, Any]) -> bool:
    """Whether all segments of a SEG say that a program made them by itself.

    Args:
        seg: metadata as DICOM's JSON.
    """
    types = [segment.get(ALGORITHM_TYPE, {}).get("Value") for segment in seg.get(SEGMENTS, {}).get("Value", [])]
    return bool(types) and all(each == [AUTOMATIC] for each in types)
