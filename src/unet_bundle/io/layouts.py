"""Where the scans of a data set lie: the Medical Segmentation Decathlon's layout, and a plain folder of scans.

A case is a dictionary of file paths, ``{"image": ..., "label": ...}``, as MONAI's transforms take it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unet_bundle.errors import InputError

SUFFIXES = (".nii.gz", ".nii")
"""File name endings of the scans that are looked for, longest first."""


def case_name(path: str | Path) -> str:
    """The name of the case a file belongs to: its base name without ``.nii`` or ``.nii.gz``."""
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def find_cases(dataset_dir: str | Path | None) -> list[dict[str, str]]:
    """The labelled cases of a data set in the Decathlon's layout.

    Args:
        dataset_dir: folder with ``dataset.json``, whose ``training`` list names images and labels.

    Returns:
        ``{"image": path, "label": path}`` for each case, sorted by case name.

    Raises:
        InputError: if the folder is not given or missing, or ``dataset.json`` is missing, broken, lists no
            case, a file that is not there, or two cases of one name.
    """
    folder = _existing_folder(dataset_dir)
    entries = read_dataset_json(folder).get("training", [])
    if not isinstance(entries, list):
        raise InputError(f"dataset.json of {folder.name}: 'training' must be a list of image and label pairs")
    cases = [_labelled_case(folder, entry) for entry in entries]
    if not cases:
        raise InputError(f"dataset.json of {folder.name} lists no labelled case: fill its 'training' list")
    return _sorted_by_name(cases)


def find_images(dataset_dir: str | Path | None) -> list[dict[str, str]]:
    """The scans to segment: one file, the test scans of a Decathlon folder, or every scan of a plain folder.

    Args:
        dataset_dir: a scan; a folder whose ``dataset.json`` lists test scans; or a folder that holds scans
            directly. Hidden files are left out, among them the ``._*`` copies that macOS makes.

    Returns:
        ``{"image": path}`` for each scan, sorted by case name.

    Raises:
        InputError: if the path is not given or missing, no scan is found, a listed file is not there,
            or two scans would give results of one name.
    """
    if dataset_dir is not None and _is_scan(Path(dataset_dir)):
        return [{"image": str(dataset_dir)}]
    folder = _existing_folder(dataset_dir)
    if (folder / "dataset.json").is_file():
        listed = read_dataset_json(folder).get("test", [])
        if not isinstance(listed, list):
            raise InputError(f"dataset.json of {folder.name}: 'test' must be a list of image files")
        if listed:
            return _sorted_by_name([{"image": _listed_file(folder, _image_of(folder, entry))} for entry in listed])
    scans = [{"image": str(path)} for path in folder.iterdir() if _is_scan(path)]
    if not scans:
        raise InputError(
            f"the folder {folder.name} holds no {' or '.join(SUFFIXES)} file: give the folder of the scans"
        )
    return _sorted_by_name(scans)


def read_dataset_json(dataset_dir: str | Path | None) -> dict[str, Any]:
    """The contents of a data set's ``dataset.json``.

    Raises:
        InputError: if the folder or the file is missing, or it is not a JSON object.
    """
    folder = _existing_folder(dataset_dir)
    path = folder / "dataset.json"
    if not path.is_file():
        raise InputError(f"the folder {folder.name} has no dataset.json: give a data set in the Decathlon's layout")
    try:
        contents = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise InputError(f"dataset.json of {folder.name} is not valid JSON ({error}): correct it") from error
    if not isinstance(contents, dict):
        raise InputError(f"dataset.json of {folder.name} must hold one JSON object, not a {type(contents).__name__}")
    return contents


def _existing_folder(dataset_dir: str | Path | None) -> Path:
    if dataset_dir is None or not str(dataset_dir).strip():
        raise InputError("dataset_dir is not set: pass --dataset_dir FOLDER")
    folder = Path(dataset_dir)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"dataset_dir {str(dataset_dir)!r} {problem}: pass --dataset_dir FOLDER")
    return folder.resolve() if not folder.name else folder


def _is_scan(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()


def _labelled_case(folder: Path, entry: object) -> dict[str, str]:
    if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
        raise InputError(
            f"dataset.json of {folder.name}: a 'training' entry needs an 'image' and a 'label', got {entry!r}"
        )
    return {key: _listed_file(folder, entry[key]) for key in ("image", "label")}


def _image_of(folder: Path, entry: object) -> object:
    if isinstance(entry, dict) and "image" not in entry:
        raise InputError(f"dataset.json of {folder.name}: each 'test' entry needs an 'image', got {entry!r}")
    return entry["image"] if isinstance(entry, dict) else entry


def _listed_file(folder: Path, name: object) -> str:
    if not isinstance(name, str):
        raise InputError(f"dataset.json of {folder.name} lists {name!r} where a file name belongs")
    path = folder / name
    if not path.is_file():
        raise InputError(f"dataset.json of {folder.name} lists {name}, which is missing: add or unlist it")
    return str(path)


def _sorted_by_name(cases: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    by_name: dict[str, dict[str, str]] = {}
    for case in cases:
        name = case_name(case["image"])
        if name in by_name:
            first, second = sorted(Path(other["image"]).name for other in (by_name[name], case))
            raise InputError(
                f"{first} and {second} are both the case {name}, one result would replace the other: rename one"
            )
        by_name[name] = case
    return [by_name[name] for name in sorted(by_name)]
