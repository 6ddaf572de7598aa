"""``unet-bundle inspect``: what a folder, an archive or a file holds, and what would be read of it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet_bundle.cli.workflow import say
from unet_bundle.errors import ConfigError, InputError
from unet_bundle.runtime import EXIT_CASES_FAILED, EXIT_OK

if TYPE_CHECKING:
    from unet_bundle.io.dicom.inspection import Inspected, Inspection

EPILOG = """\
Only headers are read. Names and ids of patients are never shown, nor names of DICOM files and folders, nor
descriptions of series, where people write such names; --show-descriptions and --show-paths show the last of these.
A series that holds several volumes is refused by predict until one is chosen. A DICOM file whose header cannot be
read holds up all others, since a slice of any series may be lost with it; --show-paths says which it is.
The exit code is 1 if something is refused or damaged, or nothing can be read, else 0.

examples:
  unet-bundle inspect study/
  unet-bundle inspect study.zip --json"""


def add_parser(verbs: Any) -> None:
    """Add this verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "inspect",
        help="say what a folder or file holds and what would be read of it",
        description="Say, series by series, what a DICOM folder or other scans hold, and what the reader would do.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder, a .zip, a DICOMDIR, or a scan")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--show-descriptions", action="store_true", help="show series descriptions, which may name a patient"
    )
    parser.add_argument(
        "--show-paths", action="store_true", help="show paths of DICOM files in trouble, which may name a patient"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Inspect a path."""
    from unet_bundle.io.inspection import inspect_path

    if not args.path.exists():
        raise ConfigError("PATH does not exist: give a folder, a .zip or a scan.")
    try:
        found = inspect_path(args.path, show_descriptions=args.show_descriptions, show_paths=args.show_paths)
    except InputError as error:
        if not args.json:
            raise
        nothing: dict[str, Any] = {"volumes": [], "left_out": {}, "damaged": [], "paths": None, "note": None}
        say(json.dumps({**nothing, "error": str(error)}, indent=2))
        return EXIT_CASES_FAILED
    if args.json:
        left_out = dict(found.left_out)  # a Counter is nothing that dataclasses can take apart
        say(json.dumps({**dataclasses.asdict(found), "left_out": left_out, "error": None}, indent=2))
    else:
        for line in table(found):
            say(line)
    refused = found.damaged or any(volume.refusal for volume in found.volumes)
    return EXIT_OK if found.readable and not refused else EXIT_CASES_FAILED


def table(found: Inspection) -> list[str]:
    """The lines for a person: one for each volume, and below it what is wrong with it.

    Args:
        found: as `unet_bundle.io.inspection.inspect_path` gives it.
    """
    from unet_bundle.geometry import format_shape, format_spacing

    rows = [("", "size", "spacing in mm", "plane", "files", "")]
    for volume in found.volumes:
        size = format_shape(volume.size) if volume.size else "?"
        spacing = format_spacing(volume.spacing) if volume.spacing else "?"
        rows.append((volume.name, size, spacing, volume.plane or "?", str(volume.files), _verdict(volume, found)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    shown = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines = shown[:1]
    for volume, line in zip(found.volumes, shown[1:], strict=True):
        lines += [line, *_notes(volume)]
    lines += [f"left out: {count} object{'s' if count > 1 else ''}, {why}" for why, count in found.left_out.items()]
    lines += [f"damaged: {message}" for message in found.damaged]
    return [*lines, *_legend(found, lines), *_summary(found)]


def _verdict(volume: Inspected, found: Inspection) -> str:
    if volume.refusal:
        return "refused"
    if volume.left_out:
        return "left out"
    if volume.choice:
        return "to choose"
    return "read" if volume in found.readable else "held up"


def _legend(found: Inspection, lines: list[str]) -> list[str]:
    """The paths of the files that the lines number, where they were asked for."""
    numbers = {int(number) for line in lines for number in re.findall(r"DICOM file (\d+) of", line)}
    return [f"DICOM file {number}: {path}" for number, path in enumerate(found.paths or (), 1) if number in numbers]


def _summary(found: Inspection) -> list[str]:
    lines = [f"{len(found.readable)} of {len(found.volumes)} can be read."]
    to_choose = sum(volume.choice is not None and volume.refusal is None for volume in found.volumes)
    if to_choose:
        lines[0] += f" {to_choose} can be if chosen."
    if found.note:
        lines.append(found.note)
    if found.damaged:
        lines.append(
            "A slice of any series may be lost with a damaged file: no DICOM is read until those are whole or gone"
            + ("." if found.paths else "; --show-paths says where they are.")
        )
    return lines


def _notes(volume: Inspected) -> list[str]:
    notes = [f"description: {volume.description}"] if volume.description else []
    notes += [f"units: {volume.units}"] if volume.units else []
    refusal = (volume.refusal or "").removeprefix(f"{volume.name} ")
    # The refusal is the problem with the remedy behind it: saying both would be saying it twice.
    notes += [problem for problem in volume.problems if problem != refusal]
    notes += [note for note in (refusal, volume.left_out, volume.choice) if note]
    return [f"    {note}" for note in notes]
