"""``unet-bundle predict``: segment new scans."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_bundle.cli import pacs
from unet_bundle.cli.cases import check_model, check_writable, make_folder, run_one_by_one, say_refused
from unet_bundle.cli.folds import add_folds, best_weights, folds_of, refuse_overrides
from unet_bundle.cli.study import Item, Work, find_work, reading_options, result_of, results_of
from unet_bundle.cli.workflow import (
    OVERRIDES_HELP,
    Overrides,
    add_bundle,
    load_workflow,
    monai_line,
    parse_overrides,
    read_config,
    say,
)
from unet_bundle.errors import ConfigError, InputError
from unet_bundle.runtime import EXIT_CASES_FAILED, EXIT_OK

FILES = ("inference.json",)

FORMATS = (
    *("auto", "nifti", "nrrd", "seg.nrrd"),
    *("dicom-seg", "dicom-seg-labelmap", "dicom-seg-fractional", "rtstruct"),
)
"""`unet_bundle.io.FORMATS`, said here too, since a line of help must not wait for MONAI."""

EPILOG = f"""\
INPUT is a scan or a folder of scans. Each gives one label map <scan>_seg.nii.gz with exactly the scan's grid
(of a PNG or TIFF picture a <picture>_seg.png, of a DICOM series a DICOM SEG <series UID>_seg.dcm; see --format),
and if the bundle tells single objects apart <scan>_instances.nii.gz or .png with their numbers;
volumes.csv holds the volume of each structure in ml (of planes the area in mm2).
Of a DICOM study (folder, .zip) every series is segmented that fits the bundle's modality, and named by its UID.
{pacs.EPILOG}
What is already there is skipped, that of a DICOM series if it was made of the same slices. A scan that is refused is
named at the end; the others are done, the exit code is 1, also if a series of the bundle's modality is refused.
--folds averages the networks of a cross-validation, runs/fold_N/best.pt, window by window: as many times the work.
{OVERRIDES_HELP}

examples:
  unet-bundle predict bundle scans/ segmentations/
  unet-bundle predict bundle scans/ segmentations/ --folds all
  unet-bundle predict bundle scans/case_17.nii.gz segmentations/ --overwrite --precision bfloat16
  unet-bundle predict bundle study/ segmentations/ --dicom::on_tilt resample
  unet-bundle predict bundle segmentations/ --dicomweb https://pacs/dicom-web --study 1.2.840.1 --store"""


def add_parser(verbs: Any) -> None:
    """Add this verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "predict",
        help="segment a scan or a folder of scans",
        description="Segment new scans with a trained bundle.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_bundle(parser)
    parser.add_argument("input", type=Path, nargs="?", metavar="INPUT", help="a scan, a folder of scans, a DICOM study")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder for the label maps")
    parser.add_argument("--format", metavar="FORMAT", help=f"of the results: {', '.join(FORMATS)}")
    add_folds(parser, "average the networks of these folds")
    parser.add_argument("--overwrite", action="store_true", help="segment again what is already there")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    pacs.add_arguments(parser)
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class _Settings:
    """The bundle's config, what replaces its values, and the results' format with that."""

    config: Mapping[str, Any]
    overrides: Overrides

    @property
    def output_format(self) -> str:
        return str(self.overrides.get("output_format", self.config.get("output_format", "auto")))


def run(args: argparse.Namespace) -> int:
    """Segment scans."""
    source = pacs.pacs_of(args)
    if args.output.exists() and not args.output.is_dir():
        raise ConfigError(f"{args.output} is a file: give a folder for the label maps.")
    check_writable(args.output)
    own = {"dataset_dir": str(args.input or ""), "output_dir": str(args.output), **_own(args)}
    settings = _Settings(read_config(args.bundle, FILES[0]), parse_overrides(args.overrides, own))
    if source is not None:
        return _segment_study(args, settings, source)
    if not args.input.exists():
        raise ConfigError(f"{args.input} does not exist: give a scan or a folder of scans.")
    if args.output.resolve() == (args.input if args.input.is_dir() else args.input.parent).resolve():
        raise ConfigError(f"{args.output} holds the scans: label maps among them would be taken for scans next time.")
    work = find_work(args.input, settings.config, settings.overrides)
    if not any("series" in item for item in work.items) and work.items:
        for reason in work.refused:  # before the others are run, and again at the end
            say(f"refused: {reason}")
    if work.items:
        say(f"MONAI: {monai_line(args.bundle, FILES, settings.overrides)}")
    return _segment(args, settings, work)


def _segment_study(args: argparse.Namespace, settings: _Settings, source: pacs.Pacs) -> int:
    """Segment the series of a PACS that have no result yet; only those are fetched."""
    if args.store:
        pacs.check_storable(settings.output_format)
    options = reading_options(settings.config, settings.overrides)
    series, left_out = pacs.look(source, options.get("modality"))
    there: list[Item] = []
    if not any(
        options.get(choice) for choice in ("series_uid", "series_description", "volume")
    ):  # known when they are read
        there = [item for each in series if _results(args, settings, item := {"series": each.uid})]
    _check_bundle(args, settings, there)
    gc.collect()  # the network goes before another is made
    there = [item for item in there if pacs.are_of_all(source, item["series"], _results(args, settings, item))]
    wanted = [each for each in series if {"series": each.uid} not in there]
    if args.dry_run:
        _say_skipped(len(there), len(series))
        pacs.say_what_would_be_done(source, wanted, store=args.store)
        _say_left_out(Work([], left_out))
        return EXIT_OK
    make_folder(args.output)
    with pacs.fetched(source, wanted) as folder:
        found = Work([])
        try:
            if wanted:
                found = find_work(folder, settings.config, settings.overrides)
        except InputError as refusal:
            if not there:
                raise
            found = Work([], refused=[str(refusal)])
        settings.overrides["dataset_dir"] = str(folder)
        work = Work([*there, *found.items], [*left_out, *found.left_out], found.refused, found.sources)
        return _segment(args, settings, work, source)


def _segment(args: argparse.Namespace, settings: _Settings, work: Work, source: pacs.Pacs | None = None) -> int:
    if not work.items:
        _say_left_out(work)
        raise InputError("nothing that was given fits the bundle: the reasons stand above.")
    there = [item for item in work.items if _results(args, settings, item)]
    done = [item for item in there if _is_done(args, settings, item, work)]
    todo = [item for item in work.items if item not in done]
    refused = _unsayable(settings, todo, work)
    todo = [item for item in todo if item.get("series") not in refused]
    for item in todo:
        _stored(args, settings, item)  # a format that is not for this kind of scan is refused before the network runs
    workflow = _load(args, settings, todo)
    _check_makers(args, settings, there, workflow)
    _say_skipped(len(done), len(work.items))
    if args.dry_run:
        say(f"{len(todo)} scans would be segmented.")
        say_refused(refused)
        _say_left_out(work)
        return EXIT_CASES_FAILED if refused or work.refused else EXIT_OK
    make_folder(args.output)
    if todo:
        count = len(todo) + len(refused)
        refused |= run_one_by_one(workflow)
        workflow.finalize()
        say(f"{count - len(refused)} of {count} scans segmented, in {args.output}")
    _say_unmeasured(args.output, done)
    say_refused(refused)
    _say_left_out(work)
    if source is not None and args.store:
        results = [_stored(args, settings, item) for item in work.items if item["series"] not in refused]
        pacs.store_results(source, results)
    return EXIT_CASES_FAILED if refused or work.refused else EXIT_OK


def _load(args: argparse.Namespace, settings: _Settings, todo: list[Item]) -> Any:
    """The workflow for these cases, with a model that is there and whole."""
    workflow = load_workflow(args.bundle, FILES, {**settings.overrides, "dataset::data": todo}, "infer")
    check_model(workflow)
    return workflow


def _check_bundle(args: argparse.Namespace, settings: _Settings, there: Sequence[Item]) -> None:
    """Say what is wrong with the bundle before an hour of fetching; the model is looked at on the CPU and let go."""
    on_cpu = {"network": "@network_def"} if "network_def" in settings.config else {}
    workflow = _load(args, _Settings(settings.config, {**settings.overrides, **on_cpu}), [])
    _check_makers(args, settings, there, workflow)


def _check_makers(args: argparse.Namespace, settings: _Settings, done: Sequence[Item], workflow: Any) -> None:
    """Refuse to store as this model's what another made."""
    if args.store:
        algorithm = workflow.parser.get_parsed_content("algorithm") if "algorithm" in workflow.parser else None
        pacs.check_makers([_stored(args, settings, item) for item in done], algorithm)


def _results(args: argparse.Namespace, settings: _Settings, item: Item) -> list[Path]:
    """What is there of results that would keep a scan from being segmented again."""
    if args.overwrite:
        return []
    if args.store:
        stored = _stored(args, settings, item)
        return [stored] if stored.exists() else []
    return results_of(item, args.output, settings.output_format)


def _is_done(args: argparse.Namespace, settings: _Settings, item: Item, work: Work) -> bool:
    """Whether a scan's result is there; that of a series must be of the same slices."""
    from unet_bundle.io.results import is_result_of

    source = work.sources.get(item.get("series", ""))
    found = _results(args, settings, item)
    if source is None or any(is_result_of(path, source) for path in found):
        return True
    say(f"{found[0].name} is of other slices than the series has: it is made again.")
    return False


def _unsayable(settings: _Settings, todo: Sequence[Item], work: Work) -> dict[str, str]:
    """The series that have no place in the format of the results, with the reason."""
    from unet_bundle.io.source_grid import check_sayable

    refused: dict[str, str] = {}
    for item in todo:
        source = work.sources.get(item.get("series", ""))
        try:
            if source is not None:
                check_sayable(source, settings.output_format)
        except InputError as error:
            refused[item["series"]] = str(error)
    return refused


def _stored(args: argparse.Namespace, settings: _Settings, item: Item) -> Path:
    """The file of a series' result that --store stores: a NIfTI, which "auto" may also write, is none."""
    return result_of(item, args.output, settings.output_format)


def _own(args: argparse.Namespace) -> dict[str, Any]:
    """What options of the verb set in the config."""
    own: dict[str, Any] = {}
    if args.format is not None:
        if args.format not in FORMATS:
            raise ConfigError(f"--format is {args.format!r}: it must be one of {', '.join(FORMATS)}.")
        own["output_format"] = args.format
    if args.folds is not None:
        refuse_overrides(args.overrides, ["checkpoint"])
        files = [best_weights(args.bundle, fold, to_score=False) for fold in folds_of(args.bundle, args.folds)]
        own["ensemble"] = [file.relative_to(args.bundle).as_posix() for file in files]
    return own


def _say_skipped(done: int, count: int) -> None:
    if done:
        say(f"{done} of {count} are already there and skipped (--overwrite does them again).")


def _say_unmeasured(folder: Path, done: Sequence[Item]) -> None:
    from unet_bundle.evaluation.volumes import FILE, without_volumes
    from unet_bundle.io import case_name

    missing = without_volumes(folder, [case_name(item["series" if "series" in item else "image"]) for item in done])
    if missing:
        say(f"{FILE} has no volumes of {missing} that were there already (--overwrite measures them).")


def _say_left_out(work: Work) -> None:
    for reason in work.left_out:
        say(f"  left out: {reason}")
    for reason in work.refused:
        say(f"  refused: {reason}")
