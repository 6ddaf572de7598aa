"""Finding the labelled cases of a data set, whatever its layout."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io.layouts.bids import survey_bids
from unet_bundle.io.layouts.description import holds_colour_pictures, read_dataset_json
from unet_bundle.io.layouts.names import SUFFIXES, FilePath, existing_folder, scans_in
from unet_bundle.io.layouts.patterns import survey_patterns
from unet_bundle.io.layouts.survey import REFUSE, Case, Survey, pair_folders, sorted_by_name

logger = logging.getLogger(__name__)

FOLDER_PAIRS = (("images", "labels"), ("imagesTr", "labelsTr"))
"""Folders of images and labels whose files are paired by name."""

_KNOWN = "a 'training' list in dataset.json, nnU-Net's raw data, images/ and labels/, BIDS derivatives"


def survey_cases(
    dataset_dir: FilePath | None,
    image_files: str | Sequence[str] | None = None,
    label_files: str | None = None,
    missing_channels: str = REFUSE,
) -> Survey:
    """Look for labelled cases and say what does not fit together.

    Args:
        dataset_dir: folder of the data set.
        image_files: pattern of the image files, for example ``"*/{case}.nii.gz"``, or one for each channel; None: the
            layout is found by looking.
        label_files: pattern of the label files; given with `image_files` or not at all.
        missing_channels: what becomes of cases that lack a channel, where the files are paired by their names; see
            `unet_bundle.io.layouts.survey.group_channels`.

    Returns:
        Cases sorted by name, and problems. A data set with problems only has no case.

    Raises:
        ConfigError: if the patterns are wrong.
        InputError: if the folder is missing, no layout fits, two layouts fit and differ, ``dataset.json`` is broken, or
            two cases have one name.
    """
    folder = existing_folder(dataset_dir)
    if (image_files is None) != (label_files is None):
        raise ConfigError("image_files and label_files belong together: state both in the task card, or neither")
    if image_files is not None and label_files is not None:
        found = survey_patterns(folder, image_files, label_files)
    else:
        found = _by_looking(folder, missing_channels)
    found.cases = sorted_by_name(found.cases)
    found.problems.sort(key=lambda problem: (problem.file, problem.kind))
    return found


def find_cases(
    dataset_dir: FilePath | None,
    image_files: str | Sequence[str] | None = None,
    label_files: str | None = None,
    missing_channels: str = REFUSE,
) -> list[Case]:
    """The labelled cases of a data set; the layout is found by looking.

    Known are the Medical Segmentation Decathlon's ``dataset.json``, nnU-Net's raw data, ``images/`` and ``labels/``
    with files of the same names, and BIDS derivatives.

    Args:
        dataset_dir: folder of the data set.
        image_files: see `survey_cases`, as `label_files`.
        label_files: stated for data sets in no known layout.
        missing_channels: see `survey_cases`.

    Returns:
        ``{"image": path, "label": path}`` for each case, sorted by case name; where each channel is a file,
        ``"image"`` is the list of their paths. Images without label are left out.

    Raises:
        ConfigError: as `survey_cases`.
        InputError: as `survey_cases`; or if no labelled case is found, a listed file is missing, a label has no image,
            or a case lacks a channel.
    """
    found = survey_cases(dataset_dir, image_files, label_files, missing_channels)
    for problem in found.problems:
        if problem.fatal:
            raise InputError(f"{problem.file} {problem.message}")
    if not found.cases:
        raise no_cases(found)
    if found.problems:
        logger.info("%d files of %s are not in labelled cases.", len(found.problems), found.folder.name)
    return found.cases


def no_cases(found: Survey) -> InputError:
    """The refusal of a data set in which no labelled case was found."""
    if found.layout == "Decathlon":
        return InputError(f"dataset.json of {found.folder.name} lists no labelled case: fill its 'training' list")
    return InputError(f"{found.folder.name} ({found.layout}) has no labelled case: add labels with the images' names")


def _by_looking(folder: Path, missing_channels: str) -> Survey:
    contents = read_dataset_json(folder) if (folder / "dataset.json").is_file() else None
    surveys: list[Survey] = []
    if contents is not None and is_nnunet(folder, contents):
        surveys.append(
            pair_folders(
                "nnU-Net raw",
                folder / "imagesTr",
                folder / "labelsTr",
                channels_of(folder, contents),
                suffixed=True,
                missing_channels=missing_channels,
            )
        )
    elif contents is not None:
        surveys.append(_survey_list(folder, contents))
    for images, labels in FOLDER_PAIRS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            layout = f"{images}/ and {labels}/"
            surveys.append(pair_folders(layout, folder / images, folder / labels, missing_channels=missing_channels))
    bids = survey_bids(folder)
    if bids is not None:
        surveys.append(bids)
    if not surveys:
        raise InputError(
            f"the folder {folder.name} has no dataset.json and no other layout that is known ({_KNOWN}): "
            "state image_files and label_files in a task card"
        )
    # dataset.json states what belongs together; what it says nothing of is looked for.
    fitting = [found for found in surveys if found.cases or found.problems] or surveys
    first = fitting[0]
    for other in fitting[1:]:
        if other.cases and not _share_a_file(first, other):
            raise InputError(
                f"{folder.name} fits two layouts, {first.layout} ({len(first.cases)} cases) and {other.layout} "
                f"({len(other.cases)} cases): take one away, or state image_files and label_files in a task card"
            )
    return first


def _share_a_file(first: Survey, second: Survey) -> bool:
    return bool(_files_of(first) & _files_of(second))


def _files_of(found: Survey) -> set[str]:
    return {found.relative(case["label"]) for case in found.cases} | {problem.file for problem in found.problems}


def is_nnunet(folder: Path, contents: dict[str, Any]) -> bool:
    """Whether ``dataset.json`` is nnU-Net's: by its keys, or, in the old form, by a list that leaves out channels."""
    entries = contents.get("training")
    images = [entry.get("image") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if images:
        first = images[0]
        return isinstance(first, str) and not (folder / first).exists() and _first_channel(folder / first).is_file()
    return "channel_names" in contents or "file_ending" in contents


def _first_channel(path: Path) -> Path:
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
    stem = path.name[: len(path.name) - len(suffix)]
    return path.with_name(f"{stem}_0000{path.name[len(stem) :]}")


def channels_of(folder: Path, contents: dict[str, Any]) -> int | None:
    """Files that a case has for its image, if that is stated."""
    if holds_colour_pictures(folder, contents):
        return 1
    names = contents.get("channel_names") or contents.get("modality")
    return len(names) if isinstance(names, dict) and names else None


def _survey_list(folder: Path, contents: dict[str, Any]) -> Survey:
    """What the ``training`` list of ``dataset.json`` names, and what lies beside it unlisted."""
    found = Survey("Decathlon", folder)
    entries = contents.get("training", [])
    if not isinstance(entries, list):
        raise InputError(f"dataset.json of {folder.name}: 'training' must be a list of image and label pairs")
    listed: set[Path] = set()
    for entry in entries:
        if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
            raise InputError(
                f"dataset.json of {folder.name}: a 'training' entry needs an 'image' and a 'label', got {entry!r}"
            )
        images = [listed_path(folder, name) for name in _as_list(entry["image"])]
        files = [*images, listed_path(folder, entry["label"])]
        listed.update(files)
        missing = [path for path in files if not path.is_file()]
        for path in missing:
            found.add_problem("missing file", path, "is listed in dataset.json but missing: add or unlist it")
        if not missing:
            image: Any = [str(path) for path in images] if isinstance(entry["image"], list) else str(images[0])
            found.cases.append({"image": image, "label": str(files[-1])})
    folders = sorted({path.parent for path in listed})
    tests = contents.get("test")
    listed.update(folder / name for entry in _as_list(tests) for name in images_of(entry) if isinstance(name, str))
    for parent in folders:
        for path in scans_in(parent):
            if path not in listed:
                message = "is not listed in dataset.json, so it is not used: list it or take it away"
                found.add_problem("unlisted file", path, message, fatal=False)
    return found


def images_of(entry: object) -> list[object]:
    """The image of an entry of ``dataset.json``: one name, or one for each channel."""
    return _as_list(entry["image"] if isinstance(entry, dict) and "image" in entry else entry)


def _as_list(names: object) -> list[object]:
    return names if isinstance(names, list) and names else [names]


def listed_path(folder: Path, name: object) -> Path:
    """A file that ``dataset.json`` names.

    Raises:
        InputError: if it is no name.
    """
    if not isinstance(name, str):
        raise InputError(f"dataset.json of {folder.name} lists {name!r} where a file name belongs")
    return folder / name
