"""BIDS: raw scans in ``sub-*/anat``, their label maps in ``derivatives/*/sub-*/anat``.

Names are made of entities, ``sub-01_ses-2_run-1_T1w``; a label map has its image's entities and some that say what was
done. See the BIDS specification, "Imaging data type derivatives".
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unet_bundle.errors import InputError
from unet_bundle.io.layouts.names import case_name, scans_in
from unet_bundle.io.layouts.survey import Survey

NAME = "BIDS derivatives"

SUBJECT = "(sub-[^_]+)"
"""Subject key of this layout: every file name begins with this entity."""

_DERIVED = frozenset({"space", "desc", "label", "atlas", "seg", "res", "den", "hemi", "scale"})
"""Entities that a derivative has and its image has not."""

_OWN_SPACES = frozenset({"orig", "individual", "native"})
_STATE = "state image_files and label_files in a task card"


class _Name(NamedTuple):
    entities: dict[str, str]
    words: list[str]  # what is no entity: the suffix comes last, in labels perhaps the image's suffix before it

    def image_entities(self) -> dict[str, str]:
        return {key: value for key, value in self.entities.items() if key not in _DERIVED}


def is_bids(folder: Path) -> bool:
    """Whether there are raw subjects and derivatives of subjects."""
    return any(folder.glob("sub-*/")) and any(folder.glob("derivatives/*/sub-*/"))


def survey_bids(folder: Path) -> Survey | None:
    """The scans that have a label map, or None if the folder has not this layout.

    Label maps are ``*_dseg``, and ``*_mask`` or ``*_seg`` with a ``label-`` entity; those in a template's space do not
    count, since they are not on the image's grid.

    Raises:
        InputError: if a label map fits several images, or an image has several label maps.
    """
    labels = [path for path in _anatomical(folder.glob("derivatives/*/sub-*")) if _is_label(_parse(path))]
    if not labels:
        return None
    survey = Survey(NAME, folder)
    images = list(_anatomical(folder.glob("sub-*")))
    label_of: dict[Path, Path] = {}
    for label in labels:
        fitting = [image for image in images if _fits(_parse(image), _parse(label))]
        if len(fitting) > 1:
            names = " and ".join(path.name for path in fitting[:2])
            raise InputError(f"{label.name} fits several images, {names}: {_STATE}")
        if not fitting:
            survey.add_problem("label without image", label, f"has no raw image of its name: add it, or {_STATE}")
            continue
        other = label_of.setdefault(fitting[0], label)
        if other != label:
            names = " and ".join(survey.relative(path) for path in (other, label))
            raise InputError(f"{fitting[0].name} has several label maps, {names}: {_STATE}")
    survey.cases = [{"image": str(image), "label": str(label)} for image, label in label_of.items()]
    suffixes = {_parse(image).words[-1] for image in label_of}
    for image in images:
        if image not in label_of and _parse(image).words[-1:] and _parse(image).words[-1] in suffixes:
            message = "has no label map in derivatives, so it is not trained on: add it or leave the image as it is"
            survey.add_problem("image without label", image, message, fatal=False)
    return survey


def _anatomical(subjects: Iterator[Path]) -> Iterator[Path]:
    for subject in sorted(subjects):
        for folder in (subject / "anat", *sorted(subject.glob("ses-*/anat"))):
            yield from scans_in(folder)


def _parse(path: Path) -> _Name:
    parts = case_name(path).split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    return _Name(entities, [part for part in parts if "-" not in part])


def _is_label(name: _Name) -> bool:
    suffix = name.words[-1] if name.words else ""
    return suffix == "dseg" or (suffix in {"mask", "seg"} and "label" in name.entities)


def _fits(image: _Name, label: _Name) -> bool:
    if not image.words or image.image_entities() != label.image_entities():
        return False
    space = label.entities.get("space")
    own_space = space is None or space in _OWN_SPACES or space == image.words[-1]
    return own_space and (len(label.words) == 1 or image.words[-1] in label.words)
