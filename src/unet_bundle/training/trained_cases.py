"""Which cases weights were trained on: told in a small file beside them, without the cases' names."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_bundle.io import case_name
from unet_bundle.io.files import replacing, write_text

DIGITS = 16
"""Hexadecimal digits kept of a SHA-256: enough to tell all cases of a data set apart."""


@dataclass(frozen=True)
class TrainedCases:
    """What is known of the weights in a file.

    Attributes:
        fold: that they were validated on.
        hashes: of the names of the cases they were trained on; names may be private.
        complete: whether these are all: false where they started from weights of which nothing is known.
    """

    fold: int
    hashes: frozenset[str]
    complete: bool = True

    def among(self, cases: Iterable[Mapping[str, Any]]) -> int:
        """How many of the cases (dictionaries with an ``"image"`` path) the weights were trained on."""
        return sum(_hash_of(case) in self.hashes for case in cases)


class Origin:
    """The cases that the weights a run starts from were trained on; they count among its own, also when it is resumed.

    Attributes:
        hashes: as of `TrainedCases`; empty for a start from nothing.
        complete: alike.
    """

    def __init__(self) -> None:
        self.hashes: frozenset[str] = frozenset()
        self.complete = True

    def add(self, trained: TrainedCases | None) -> None:
        """The run starts from these weights, too; None if nothing is known of them."""
        self.hashes |= frozenset() if trained is None else trained.hashes
        self.complete = self.complete and trained is not None and trained.complete

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"hashes": sorted(self.hashes), "complete": self.complete}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what was known when the run started."""
        self.hashes, self.complete = frozenset(state["hashes"]), bool(state["complete"])


def write_trained_cases(
    weights: Path, fold: int, cases: Iterable[Mapping[str, Any]], origin: Origin | None = None
) -> Path:
    """Note beside weights what they were trained on.

    Args:
        weights: their file, which the note belongs to: it holds its hash, too.
        fold: that they were validated on.
        cases: that they were trained on, with an ``"image"`` path each, from which the name is taken.
        origin: what is known of the weights that their training started from; None: it started from nothing.

    Returns:
        The note, ``model.json`` for ``model.pt``.
    """
    origin = origin or Origin()
    content = {
        "weights": _short(weights.read_bytes()),
        "fold": fold,
        "trained_on": sorted(hashes_of(cases) | origin.hashes),
        **({} if origin.complete else {"complete": False}),
    }
    write_text(_note(weights), json.dumps(content, indent=1) + "\n")
    return _note(weights)


def read_trained_cases(weights: Path) -> TrainedCases | None:
    """What is noted beside weights; None if there is no note, or one of other weights."""
    try:
        content = json.loads(_note(weights).read_text(encoding="utf-8"))
        if content["weights"] != _short(weights.read_bytes()):
            return None
        complete = content.get("complete", True) is True
        return TrainedCases(int(content["fold"]), frozenset(content["trained_on"]), complete)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def copy_weights(source: Path, target: Path) -> None:
    """Copy weights with what is noted beside them.

    The note first: who sees new weights finds it beside them.
    """
    if _note(source).is_file():
        _copy(_note(source), _note(target))
    else:
        _note(target).unlink(missing_ok=True)
    _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def hashes_of(cases: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """What stands for cases (dictionaries with an ``"image"`` path) in `TrainedCases`."""
    return frozenset(_hash_of(case) for case in cases)


def _note(weights: Path) -> Path:
    # Beside the weights, so that who moves or ships them takes it along; servers offer *.pt of that folder only.
    return weights.with_suffix(".json")


def _hash_of(case: Mapping[str, Any]) -> str:
    return _short(case_name(case["image"]).encode())


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]
