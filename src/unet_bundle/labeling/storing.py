"""Label maps on their way into the store: with the bundle's values, however the client numbers its segments."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from unet_bundle.errors import InputError
from unet_bundle.io import LoadImaged, SaveImaged

FORMATS = {".nii.gz": "nifti", ".nii": "nifti", ".nrrd": "nrrd"}
"""Of label maps whose values can be changed."""


def values_by_name(listed: Sequence[Mapping[str, Any]], present: set[int], labels: Mapping[str, int]) -> dict[int, int]:
    """What values of a label map have to become, for those that change.

    3D Slicer numbers the segments of its list 1, 2, 3: when an annotator deletes, moves or adds one, the numbers are
    not those of the bundle's classes any more, but the names still are.

    Args:
        listed: the client's segments, each with its ``name`` and ``idx``, the number that it states. Slicer states
            places in a longer list, of which it leaves some out: where not all values of the map are among them, the
            places in this list count.
        present: values in the label map, without 0.
        labels: value of each class, with the background.
    """
    stated = [each.get("idx") for each in listed]
    numbers = stated if present <= set(stated) else range(1, len(listed) + 1)
    names = {number: str(each.get("name")).strip().casefold() for number, each in zip(numbers, listed, strict=True)}
    known = {name.casefold(): value for name, value in labels.items()}
    taken = {*labels.values(), *present}
    changes: dict[int, int] = {}
    for number in sorted(present & names.keys()):
        value = known.get(names[number])
        if value is None and number in labels.values():  # a class of the annotator's own, with the number of another
            value = max(taken) + 1
            taken.add(value)
        if value not in (None, number):
            changes[number] = value
    return changes


@contextmanager
def by_values(label: str, listed: Any, labels: Mapping[str, int]) -> Iterator[str]:
    """A label map with the bundle's values: the file itself if it has them, else a changed copy for as long as needed.

    Args:
        label: its file; one that cannot be read is left as it is.
        listed: what the client says of its segments, see `values_by_name`; anything else is as if it said nothing.
        labels: value of each class, with the background.

    Raises:
        InputError: it has other values and is in a format that is not written.
    """
    image, changes = None, {}
    if isinstance(listed, list) and all(isinstance(each, dict) for each in listed):
        with suppress(InputError):
            image = LoadImaged(keys="label")({"label": label})["label"]
            present = {int(value) for value in torch.unique(image.as_tensor()).tolist()} - {0}
            changes = values_by_name(listed, present, labels)
    if image is None or not changes:
        yield label
        return
    ending = next((ending for ending in FORMATS if label.endswith(ending)), None)
    if ending is None or label.endswith(".seg.nrrd"):
        raise InputError(
            "the label map numbers its segments otherwise than the bundle: send it as NIfTI or NRRD, or bring the"
            " segments into the bundle's order"
        )
    changed = image.clone()
    for number, value in changes.items():
        changed[image == number] = value
    dtype = "uint8" if float(changed.max()) < 256 else "uint16"
    with tempfile.TemporaryDirectory() as folder:
        save = SaveImaged(keys="label", output_dir=folder, dtype=dtype, output_format=FORMATS[ending])
        save.saver(changed, filename=str(Path(folder, "label")))
        yield str(next(Path(folder).iterdir()))
