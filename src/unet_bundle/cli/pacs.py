"""`predict` from a PACS: a study comes by DICOMweb into a temporary folder, results go back."""

from __future__ import annotations

import argparse
import logging
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet_bundle.cli.workflow import say
from unet_bundle.errors import ConfigError, InputError

if TYPE_CHECKING:
    from unet_bundle.io.dicomweb import DicomWeb, RemoteSeries

logger = logging.getLogger(__name__)

EPILOG = """\
With --dicomweb the series come from a PACS, and INPUT is left out. Login and password stand in ~/.netrc (or in the
file that the environment variable NETRC names), never on the command line; they are sent by https only, and by http
to this computer. --store stores the results of this study in this run's format and nothing else that lies in OUTPUT;
a result that is already there is stored if it was made by the same model in the same version, else the run ends before
it starts. Series with a DICOM result of all their slices are not fetched again. Storing the same from another OUTPUT
adds another result: the PACS does not replace one by the other."""


@dataclass(frozen=True)
class Pacs:
    """Where a study comes from.

    Attributes:
        server: the DICOMweb server.
        study: StudyInstanceUID.
        series: SeriesInstanceUID; None for all that fit.
    """

    server: DicomWeb
    study: str
    series: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let `parser` take a study from a PACS."""
    group = parser.add_argument_group("from a PACS")
    group.add_argument("--dicomweb", metavar="URL", help="root of a DICOMweb service, such as https://host/dicom-web")
    group.add_argument("--study", metavar="UID", help="StudyInstanceUID")
    group.add_argument("--series", metavar="UID", help="SeriesInstanceUID; without it every series that fits")
    group.add_argument("--store", action="store_true", help="store the results there")


def pacs_of(args: argparse.Namespace) -> Pacs | None:
    """The PACS that the arguments name, None if they name none; nothing is asked of it.

    Raises:
        ConfigError: if they do not go together, or a UID or the URL is none.
    """
    from unet_bundle.io.dicomweb import DicomWeb, check_uid

    if args.dicomweb is None:
        for option in ("study", "series", "store"):
            if getattr(args, option):
                raise ConfigError(f"--{option} is for a PACS: give its --dicomweb URL.")
        if args.input is None:
            raise ConfigError("INPUT is missing: give a scan or a folder of scans, and the folder for the label maps.")
        return None
    server = DicomWeb(args.dicomweb)
    if args.input is not None:
        raise ConfigError("--dicomweb takes the place of INPUT: give BUNDLE and OUTPUT only.")
    if args.study is None:
        raise ConfigError("--dicomweb needs a study: give its UID by --study.")
    for what in ("study", "series"):
        if getattr(args, what) is not None:
            check_uid(getattr(args, what), what)
    return Pacs(server, args.study, args.series)


def look(pacs: Pacs, modality: str | None) -> tuple[list[RemoteSeries], list[str]]:
    """Ask what series the study has; none is fetched.

    Args:
        pacs: where.
        modality: that the bundle was trained on, None if any.

    Returns:
        The series that may fit, and why the others do not, a line for each.

    Raises:
        InputError: if the server cannot be reached or refuses, or nothing there fits.
    """
    from unet_bundle.io.dicom.kinds import MODALITIES

    found = pacs.server.series(pacs.study)
    if pacs.series is not None:
        found = [each for each in found if each.uid == pacs.series]
        if not found:
            raise InputError(f"{pacs.server.host} has no such series in the study: check the UID")
    wanted = MODALITIES if modality is None else (modality,)
    left_out = [
        f"{_name(each)} is {each.modality}, the model needs {modality or ' or '.join(MODALITIES)}"
        for each in found
        if each.modality not in wanted
    ]
    fitting = [each for each in found if each.modality in wanted]
    if not fitting:
        raise InputError(f"the study holds no series to segment: {'; '.join(left_out)}")
    return fitting, left_out


def say_what_would_be_done(pacs: Pacs, wanted: Sequence[RemoteSeries], *, store: bool) -> None:
    """Name the series that would be fetched; whether their geometry is sure is only known then."""
    say(f"{len(wanted)} series would be fetched from {pacs.server.host} and segmented if their geometry is sure.")
    for each in wanted:
        say(f"  {_name(each)}{'' if each.count is None else f', {each.count} files'}")
    if store:
        say(f"The results would be stored on {pacs.server.host}.")


@contextmanager
def fetched(pacs: Pacs, wanted: Sequence[RemoteSeries]) -> Iterator[Path]:
    """Series in a temporary folder that is removed afterwards, whatever happens.

    Args:
        pacs: where from.
        wanted: some of what `look` found.

    Yields:
        The folder.

    Raises:
        InputError: if the server cannot be reached or refuses, or does not send all.
    """
    with _ended_politely(), tempfile.TemporaryDirectory(prefix="unet-bundle-") as folder:
        for number, series in enumerate(wanted, 1):
            logger.info("fetching %s, %d of %d", _name(series), number, len(wanted))
            pacs.server.fetch(pacs.study, series, Path(folder, f"{number:04d}"))
        yield Path(folder)


@contextmanager
def _ended_politely() -> Iterator[None]:
    """Let SIGTERM, with which schedulers and containers end a run, unwind as Ctrl-C does: no scan stays behind."""

    def leave(_signal: int, _frame: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def store_results(pacs: Pacs, results: Sequence[Path]) -> None:
    """Store the results of these series, those of earlier runs too, which an interrupted run may have left unsent.

    Args:
        pacs: where to.
        results: one file for each series.

    Raises:
        InputError: if the server cannot be reached, refuses, or does not keep one; or a series has no DICOM result, as
            one that lacks the UIDs which that would refer to.
    """
    files = [path for path in results if path.exists()]
    if files:
        pacs.server.store(files)
        say(f"{len(files)} result{'' if len(files) == 1 else 's'} stored on {pacs.server.host}")
    if len(files) < len(results):
        raise InputError(
            f"{len(results) - len(files)} of {len(results)} series have no DICOM result to store: see the lines above."
        )


def are_of_all(pacs: Pacs, series: str, results: Sequence[Path]) -> bool:
    """Whether one of these results was made of all that the server has of a series, so that it need not be fetched.

    Args:
        pacs: where the series is.
        series: its UID.
        results: files; only DICOM says what it was made of.

    Returns:
        False also if the server does not say what it has.
    """
    from unet_bundle.io.results import referenced_instances

    files = [path for path in results if path.suffix.lower() == ".dcm"]
    if not files:
        return False
    try:
        instances = pacs.server.instances(pacs.study, series)
    except InputError:  # not every server lists them; whether it can be reached shows when the series is fetched
        return False
    return any(referenced_instances(path) == instances for path in files)


def check_makers(results: Sequence[Path], algorithm: Mapping[str, Any] | None) -> None:
    """Refuse to store as this model's what another made.

    Args:
        results: that are there already and are not made again.
        algorithm: of the config.

    Raises:
        ConfigError: if one was made by another algorithm or version, or does not say by which.
    """
    from unet_bundle.io.algorithm import Algorithm

    maker = Algorithm.of(algorithm)
    foreign = [path for path in results if not maker.made(path)]
    if foreign:
        raise ConfigError(
            f"{foreign[0].name} in the output folder is no result of {maker.name!r} {maker.version}"
            f"{f', nor are {len(foreign) - 1} more' if len(foreign) > 1 else ''}: "
            "give another OUTPUT, or --overwrite to make it again."
        )


def check_storable(output_format: str) -> None:
    """Refuse to store what is no DICOM, before hours of work.

    Raises:
        ConfigError: if `output_format` is another.
    """
    if output_format != "auto" and not output_format.startswith(("dicom-seg", "rtstruct")):
        raise ConfigError(f"--store is for DICOM results, the format is {output_format!r}: leave it or take dicom-seg.")


def _name(series: RemoteSeries) -> str:
    from unet_bundle.io.dicom.grouping import UID_ENDING

    number = "" if series.number is None else f" {series.number}"
    return f"{series.modality} series{number} (...{series.uid[-UID_ENDING:]})"
