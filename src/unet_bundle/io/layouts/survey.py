"""What looking at a data set's folder brings: its labelled cases, and what does not fit together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io.layouts.names import case_name, relative_name, scans_in, split_channel

Case = dict[str, Any]
"""``{"image": path or list of paths, "label": path}``."""


MISSING = "missing_channels"
"""Key under which a case lists the channels that have no file, and the metadata of its image those that are empty."""
REFUSE = "refuse"
MISSING_CHANNELS = (REFUSE, "zero")
"""What becomes of a scan that lacks a channel: it is refused, or the channel is zero after normalisation."""


@dataclass(frozen=True)
class Problem:
    """Something about a file that keeps it out of the labelled cases.

    Attributes:
        kind: a word for programs, such as ``"missing channel"``.
        file: path of the file, relative to the data set.
        message: what is wrong and what to do; reads on from the file's name.
        fatal: whether a labelled case would be lost or wrong. An image without label is none: it is left out.
    """

    kind: str
    file: str
    message: str
    fatal: bool


@dataclass
class Survey:
    """The cases that were found in a folder.

    Attributes:
        layout: name of the layout, for people.
        folder: of the data set.
        cases: complete cases, all of whose files are there.
        problems: what is left over.
    """

    layout: str
    folder: Path
    cases: list[Case] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add_problem(self, kind: str, path: Path, message: str, fatal: bool = True) -> None:
        """Note what is wrong with a file; see `Problem`."""
        self.problems.append(Problem(kind, self.relative(path), message, fatal))

    def relative(self, path: str | Path) -> str:
        """A file's path as people may see it: from the data set's folder on."""
        return relative_name(path, self.folder)


def pair_folders(
    layout: str,
    images: Path,
    labels: Path,
    channels: int | None = None,
    suffixed: bool | None = None,
    missing_channels: str = REFUSE,
) -> Survey:
    """Pair the files of two folders by name: ``a`` with ``a``, or ``a_0000``, ``a_0001``, ... with ``a``.

    Args:
        layout: its name.
        images: folder of the images.
        labels: folder of the label maps, beside it.
        channels: channel files that a case must have, if that is known; None: as many as the case that has most.
        suffixed: True: every image has a channel's suffix, as nnU-Net wants it; None: either is fine.
        missing_channels: one of `MISSING_CHANNELS`, see `group_channels`.
    """
    _check_missing_channels(missing_channels)
    survey = Survey(layout, images.parent)
    whole, by_channel = _by_case(scans_in(images))
    if suffixed:
        whole = {}
    label_files = _by_stem(scans_in(labels))
    # A file that has exactly a label's name is that label's image, whatever its name ends in.
    paired = {name for name in label_files if name in whole}
    taken = {whole[name] for name in paired}
    split_cases = {
        name: {number: path for number, path in by_channel.get(name, {}).items() if path not in taken}
        for name in label_files
        if name not in paired
    }
    needed = range(channels or max((max(files) + 1 for files in split_cases.values() if 0 in files), default=0))
    for name, label in label_files.items():
        if name in paired:
            survey.cases.append({"image": str(whole[name]), "label": str(label)})
            continue
        files = split_cases[name] if needed else {}
        taken.update(files.values())
        missing = [number for number in needed if number not in files]
        surplus = [number for number in files if number not in needed]
        if not files:
            remedy = "add the image or take the label away"
            survey.add_problem("label without image", label, f"has no image in {images.name}: {remedy}")
        elif missing and missing_channels == REFUSE:
            survey.add_problem(
                "missing channel",
                label,
                f"lacks the image's channel {name}_{missing[0]:04d}, {len(needed)} are needed: add the file",
            )
        elif surplus:
            survey.add_problem(
                "surplus channel",
                files[surplus[0]],
                f"is one channel more than the {len(needed)} that dataset.json states: take it away or state it",
            )
        else:
            case: Case = {"image": [str(files[number]) for number in sorted(files)], "label": str(label)}
            survey.cases.append({**case, MISSING: missing} if missing else case)
    for path in scans_in(images):
        if path not in taken:
            message = f"has no label in {labels.name}, so it is not trained on: add the label or take the image away"
            survey.add_problem("image without label", path, message, fatal=False)
    return survey


def group_channels(
    paths: Sequence[Path],
    channels: int | None,
    missing_channels: str = REFUSE,
    refused: dict[str, str] | None = None,
) -> list[Case]:
    """Unlabelled scans, the channel files of a scan put together if that is how they are named.

    Args:
        paths: files of one folder.
        channels: channels of a scan; None: as many as the scan that has most. Files are channels only if all are named
            ``<case>_NNNN`` with a number below that.
        missing_channels: one of `MISSING_CHANNELS`; with ``"zero"`` a scan that lacks channels has their numbers under
            the key `MISSING`.
        refused: takes the scans that are refused, by name, with the reason; None: the first ends it.

    Raises:
        ConfigError: if `missing_channels` is another.
        InputError: if a channel of a scan is missing and that is refused, or two files are one channel.
    """
    _check_missing_channels(missing_channels)
    clashes: dict[str, str] | None = None if refused is None else {}
    whole, by_channel = _by_case(paths, clashes)
    if len(whole) > sum(len(files) for files in by_channel.values()):
        return [{"image": str(path)} for path in paths]
    count = channels or max((max(files) + 1 for files in by_channel.values()), default=0)
    if any(number >= count for files in by_channel.values() for number in files):
        return [{"image": str(path)} for path in paths]
    cases: list[Case] = []
    doubled = {(split_channel(stem) or (stem, 0))[0]: reason for stem, reason in (clashes or {}).items()}
    for name, files in by_channel.items():
        missing = [number for number in range(count) if number not in files]
        reason = doubled.get(name)
        if reason is None and missing and missing_channels == REFUSE:
            reason = (
                f"{name} lacks its channel {name}_{missing[0]:04d}, {count} are needed: add the file, or, if "
                "the model was trained to do without (channel_dropout), set missing_channels to 'zero'"
            )
        if reason is not None:
            _refuse(name, reason, refused)
            continue
        case: Case = {"image": [str(files[number]) for number in sorted(files)]}
        cases.append({**case, MISSING: missing} if missing else case)
    return cases


def _check_missing_channels(choice: str) -> None:
    if choice not in MISSING_CHANNELS:
        raise ConfigError(f"missing_channels is {choice!r}: it must be one of {', '.join(MISSING_CHANNELS)}")


def _refuse(name: str, reason: str, refused: dict[str, str] | None) -> None:
    if refused is None:
        raise InputError(reason)
    refused[name] = reason


def sorted_by_name(cases: Iterable[Case], refused: dict[str, str] | None = None) -> list[Case]:
    """The cases sorted by name.

    Args:
        cases: in any order.
        refused: takes the names that several cases have, all of which are left out, with the reason; None: the first
            ends it.

    Raises:
        InputError: if two have the same name.
    """
    by_name: dict[str, list[Case]] = {}
    for case in cases:
        by_name.setdefault(case_name(case["image"]), []).append(case)
    for name, same in by_name.items():
        if len(same) > 1:
            _refuse(name, _clash(name, sorted(_first_file(case) for case in same)), refused)
    return [by_name[name][0] for name in sorted(by_name) if len(by_name[name]) == 1]


def _clash(name: str, files: Sequence[str]) -> str:
    """Why none of some files, by their sorted names, is taken."""
    named = f"{', '.join(files[:-1])} and {files[-1]}" if len(set(files)) > 1 else f"two files {files[0]}"
    each = "both" if len(files) == 2 else "all"
    return f"{named} are {each} the case {name}, one result would replace the other: rename one"


def _first_file(case: Case) -> str:
    image = case["image"]
    return Path(image[0] if isinstance(image, list) else image).name


def _by_stem(paths: Iterable[Path], refused: dict[str, str] | None = None) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in paths:
        name = case_name(path)
        other = by_stem.setdefault(name, path)
        if other != path:
            _refuse(name, _clash(name, sorted([other.name, path.name])), refused)
    return by_stem


def _by_case(
    paths: Iterable[Path], refused: dict[str, str] | None = None
) -> tuple[dict[str, Path], dict[str, dict[int, Path]]]:
    """Files by their whole name, and those named as channels by case and number as well; see `sorted_by_name`."""
    whole = _by_stem(paths, refused)
    by_channel: dict[str, dict[int, Path]] = {}
    for stem, path in whole.items():
        parts = split_channel(stem)
        if parts is not None:
            by_channel.setdefault(parts[0], {})[parts[1]] = path
    return whole, by_channel
