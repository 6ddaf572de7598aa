"""Cases by patterns that a person states, for data sets that are in no known layout."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io.layouts.names import is_scan
from unet_bundle.io.layouts.survey import Survey

NAME = "patterns of the task card"

_PARTS = re.compile(r"\{case\}|\*\*/|\*|\?|[^{*?]+|.")
_WILDCARDS = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}


def survey_patterns(folder: Path, image_files: str | Sequence[str], label_files: str) -> Survey:
    """The cases whose files fit patterns, for example ``*/{case}.nii.gz`` and ``*/{case}_seg.nii.gz``.

    Args:
        folder: of the data set; the patterns are relative to it, with ``/`` between folders.
        image_files: ``{case}`` stands for the case's name, ``*`` and ``?`` for any characters of a file or folder,
            ``**/`` for any folders. A list has one pattern for each channel.
        label_files: of the label maps. What fits it is no image, even where it fits `image_files`.

    Raises:
        ConfigError: if a pattern has no ``{case}`` or leaves the folder.
        InputError: if a pattern finds several files for one case.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if is_scan(path)}
    files = {name: path for name, path in files.items() if not any(part.startswith(".") for part in name.split("/"))}
    labels = _matching(files, label_files)
    label_paths = set(labels.values())
    images_only = {name: path for name, path in files.items() if path not in label_paths}
    patterns = [image_files] if isinstance(image_files, str) else list(image_files)
    channels = [_matching(images_only, pattern) for pattern in patterns]

    survey = Survey(NAME, folder)
    for case, label in labels.items():
        found = [str(channel[case]) for channel in channels if case in channel]
        if not found:
            survey.add_problem(
                "label without image", label, f"has no image that fits {patterns[0]!r}: add or rename it"
            )
        elif len(found) < len(channels):
            lacking = next(pattern for pattern, channel in zip(patterns, channels, strict=True) if case not in channel)
            survey.add_problem("missing channel", label, f"lacks the image's channel {lacking!r}: add the file")
        else:
            survey.cases.append({"image": found if len(patterns) > 1 else found[0], "label": str(label)})
    for case in sorted({case for channel in channels for case in channel} - labels.keys()):
        path = next(channel[case] for channel in channels if case in channel)
        message = f"has no label that fits {label_files!r}, so it is not trained on: add the label or leave it so"
        survey.add_problem("image without label", path, message, fatal=False)
    return survey


def _matching(files: dict[str, Path], pattern: str) -> dict[str, Path]:
    """Files that fit a pattern, by case."""
    compiled = _compile(pattern)
    found: dict[str, Path] = {}
    for name, path in files.items():
        match = compiled.fullmatch(name)
        if match is None:
            continue
        other = found.setdefault(match["case"], path)
        if other != path:
            raise InputError(
                f"{other.name} and {path.name} both fit the pattern {pattern!r} for case {match['case']}: narrow it"
            )
    return found


def _compile(pattern: str) -> re.Pattern[str]:
    if "{case}" not in pattern:
        raise ConfigError(f"the pattern {pattern!r} has no '{{case}}', which pairs images and labels: put it in")
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise ConfigError(f"the pattern {pattern!r} leaves the data set's folder: write it relative to that")
    return re.compile("".join(_expressions(_PARTS.findall(pattern))))


def _expressions(parts: Iterable[str]) -> Iterable[str]:
    seen = False
    for part in parts:
        if part == "{case}":
            yield "(?P=case)" if seen else "(?P<case>[^/]+?)"
            seen = True
        else:
            yield _WILDCARDS.get(part) or re.escape(part)
