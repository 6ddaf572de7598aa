"""What a data set says of itself: its name, modality and labels, in the form of the Decathlon's ``dataset.json``."""

import csv
import json
from pathlib import Path
from typing import Any

from unet_bundle.errors import InputError
from unet_bundle.io.layouts.bids import SUBJECT, is_bids
from unet_bundle.io.layouts.names import PICTURE_SUFFIXES, FilePath, case_name, existing_folder, scans_in, split_channel

_COLOURS = (("r", "g", "b"), ("red", "green", "blue"))
"""Names that the channels of a colour picture have in nnU-Net's ``channel_names``, in lower case."""

_BIDS_TEXTS = {"name": "Name", "licence": "License"}


def read_description(dataset_dir: FilePath | None) -> dict[str, Any]:
    """What the data set says of itself, in whatever layout.

    Args:
        dataset_dir: folder of the data set.

    Returns:
        As in the Decathlon's ``dataset.json``: ``name`` (the folder's, if nothing states one) and, where they are
        stated, ``modality`` and ``labels`` as number to name, ``description``, ``reference`` and ``licence``.
        ``subject`` of BIDS, whose names tell the subject (see `unet_bundle.io.splits.subject_of`).
        ``ignore``: the value of nnU-Net's label of that name. Labels that are not plain names and numbers (nnU-Net's
        regions) are handed on as they are.

    Raises:
        InputError: if the folder is missing, or a file in it is not valid.
    """
    folder = existing_folder(dataset_dir)
    if (folder / "dataset.json").is_file():
        description = _from_nnunet(folder, read_dataset_json(folder))
    elif (folder / "dataset_description.json").is_file():
        description = _from_bids(folder)
    else:
        description = {}
    if not (folder / "dataset.json").is_file() and is_bids(folder):
        description["subject"] = SUBJECT
    if not description.get("name"):
        description["name"] = folder.resolve().name
    return description


def read_dataset_json(dataset_dir: FilePath | None) -> dict[str, Any]:
    """The contents of a data set's ``dataset.json``, as they are.

    Raises:
        InputError: if the folder or the file is missing, or it is not a JSON object.
    """
    folder = existing_folder(dataset_dir)
    if not (folder / "dataset.json").is_file():
        raise InputError(f"the folder {folder.name} has no dataset.json: give a data set in the Decathlon's layout")
    return _read_object(folder / "dataset.json")


def _read_object(path: Path) -> dict[str, Any]:
    where = f"{path.name} of {path.parent.name}"
    try:
        contents = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{where} cannot be read ({error.strerror}): check its permissions") from None
    except ValueError as error:
        raise InputError(f"{where} is not valid JSON ({error}): correct it") from error
    if not isinstance(contents, dict):
        raise InputError(f"{where} must hold one JSON object, not a {type(contents).__name__}")
    return contents


def holds_colour_pictures(folder: Path, contents: dict[str, Any]) -> bool:
    """Whether the three channels of nnU-Net's raw data are red, green and blue of one picture, named ``<case>_0000``.

    Args:
        folder: of the data set.
        contents: of its ``dataset.json``.
    """
    names = contents.get("channel_names") or contents.get("modality")
    if not isinstance(names, dict) or tuple(str(name).strip().lower() for name in names.values()) not in _COLOURS:
        return False
    files = [*scans_in(folder / "imagesTr"), *scans_in(folder / "imagesTs")]
    parts = [split_channel(case_name(path)) for path in files if path.name.lower().endswith(PICTURE_SUFFIXES)]
    return bool(files) and len(parts) == len(files) and all(part is not None and part[1] == 0 for part in parts)


def _from_nnunet(folder: Path, contents: dict[str, Any]) -> dict[str, Any]:
    """nnU-Net's second version names channels otherwise, and labels the other way round: name to number."""
    description = {key: value for key, value in contents.items() if key != "subject"}  # ours, of BIDS
    if holds_colour_pictures(folder, contents):
        description["modality"] = {"0": "RGB"}
    if "modality" not in description and "channel_names" in description:
        description["modality"] = description["channel_names"]
    labels = description.get("labels")
    description.pop("ignore", None)
    if isinstance(labels, dict) and isinstance(labels.get("ignore"), int):
        description["ignore"] = labels["ignore"]
        description["labels"] = labels = {name: value for name, value in labels.items() if name != "ignore"}
    if isinstance(labels, dict):
        values = list(labels.values())
        if all(isinstance(value, int) for value in values) and len(set(values)) == len(values):
            description["labels"] = {str(value): name for name, value in labels.items()}
    return description


def _from_bids(folder: Path) -> dict[str, Any]:
    contents = _read_object(folder / "dataset_description.json")
    description = {key: contents[source] for key, source in _BIDS_TEXTS.items() if contents.get(source)}
    links = contents.get("ReferencesAndLinks")
    if isinstance(links, list) and links:
        description["reference"] = ", ".join(str(link) for link in links)
    description["modality"] = {"0": "MRI"}  # what lies in anat/ is MR, by the standard
    tables = sorted(folder.glob("derivatives/*/*dseg.tsv"))
    if len(tables) == 1:
        description["labels"] = _labels_of_table(tables[0])
    return description


def _labels_of_table(path: Path) -> dict[str, str]:
    """Number to name, from a table with the columns ``index`` and ``name`` (BIDS, imaging derivatives)."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if not rows or not all(row.get("index") and row.get("name") for row in rows):
        raise InputError(f"{path.name} of {path.parent.name} needs the columns 'index' and 'name': correct it")
    return {"0": "background", **{row["index"]: row["name"] for row in rows}}
