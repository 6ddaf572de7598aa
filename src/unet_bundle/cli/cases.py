"""Running a config's evaluator over its cases one by one, so that a broken one does not end the others."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from unet_bundle.cli.workflow import say
from unet_bundle.errors import CheckpointError, ConfigError, UnetBundleError
from unet_bundle.runtime import our_error

logger = logging.getLogger(__name__)


def check_model(workflow: Any) -> None:
    """Load the model, or refuse one that is missing, damaged or another network's, before any scan is read.

    Raises:
        CheckpointError: there is none, it cannot be read, or does not fit.
        ConfigError: an ensemble that is no list of files.
    """
    from unet_bundle.inferers import ScanInferer
    from unet_bundle.networks.checkpoint import ensemble_files, load_checkpoint
    from unet_bundle.training import CheckpointLoader

    content = workflow.parser.get_parsed_content
    members = content("ensemble") if "ensemble" in workflow.parser else ()
    files = ensemble_files(members, content("bundle_root"))
    inferer, loaders = content("inferer"), [each for each in content("handlers") if isinstance(each, CheckpointLoader)]
    # Those who load them for the run do so now, and need not read them again.
    if files and isinstance(inferer, ScanInferer) and inferer.members.files == files:
        inferer.members.of(content("network"))
    elif not files and loaders:
        for loader in loaders:
            loader.load()
    else:
        for file in files or [Path(content("checkpoint"))]:
            load_checkpoint(file)


def make_folder(folder: Path) -> None:
    """Make the folder for the results.

    Raises:
        ConfigError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made ({error.strerror}): give another folder for the results."
        ) from error
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(folder, error.strerror) from error


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, or made, before any work; nothing is made.

    Raises:
        ConfigError: it cannot be written.
    """
    there = next((each for each in (folder, *folder.absolute().parents) if each.exists()), folder)
    if not os.access(there, os.W_OK | os.X_OK):
        raise _not_writable(folder, "no permission")


def _not_writable(folder: Path, reason: str | None) -> ConfigError:
    return ConfigError(f"{folder} cannot be written ({reason}): give another folder for the results.")


def run_one_by_one(workflow: Any) -> dict[str, str]:
    """Run the config's evaluator on each case of its data set.

    Args:
        workflow: an initialised MONAI ``ConfigWorkflow`` of an inference or evaluation config.

    Returns:
        The cases that failed, by name, with the reason.

    Raises:
        CheckpointError, ConfigError: what no other case would be spared.
    """
    from unet_bundle.cli.batches import CaseBatches

    content = workflow.parser.get_parsed_content
    batches = CaseBatches(content("dataset"), content("inferer"))
    refused: dict[str, str] = {}
    evaluator = None
    while batches:
        if evaluator is None:
            # A new one: after an exception the next run of an Ignite engine ends at once and in silence.
            workflow.parser.ref_resolver.remove_resolved_content("evaluator")
            evaluator = content("evaluator")
            evaluator.data_loader = batches
            evaluator.state.epoch_length = 1
        try:
            evaluator.run()
        except (UnetBundleError, RuntimeError, ValueError, OSError, MemoryError) as error:
            evaluator = None
            ours = our_error(error)
            if isinstance(ours, CheckpointError | ConfigError):
                raise  # no other scan will fare better
            if len(batches.names) > 1:
                batches.again_singly()
                continue
            (name,) = batches.names
            refused[name] = str(ours) if ours is not None else _first_line(error)
            logger.warning("%s is refused: %s", name, refused[name])
    return refused


def say_refused(refused: dict[str, str]) -> None:
    """Name the cases that failed, as the last lines of the output."""
    for name, message in refused.items():
        say(f"  refused: {name}: {message}")


def _first_line(error: BaseException) -> str:
    """Of the error that was there first: around it stand MONAI's, which name the transform."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
