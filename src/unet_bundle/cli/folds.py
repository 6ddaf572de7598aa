"""Which folds a verb works through, and where their runs and weights lie."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unet_bundle.cli.workflow import read_config, read_json, say
from unet_bundle.errors import CheckpointError, ConfigError

ALL = "all"


def add_folds(parser: Any, words: str) -> None:
    """Let a parser, or a group of exclusive arguments, take ``--folds``."""
    parser.add_argument("--folds", metavar="FOLDS", help=f"{words}: all, or numbers as in 0,2")


def folds_of(bundle: Path, wanted: str, overrides: Sequence[str] = ()) -> list[int]:
    """The folds that are meant.

    Args:
        bundle: folder of the bundle.
        wanted: ``"all"``, or numbers with commas between them.
        overrides: ``--key value`` pairs, which may name other splits.

    Returns:
        Their numbers, each once, ascending.

    Raises:
        ConfigError: not a bundle, no number, or no fold of the bundle.
    """
    count = number_of_folds(bundle, overrides)
    if wanted == ALL:
        return list(range(count))
    try:
        folds = sorted({int(word) for word in wanted.split(",")})
    except ValueError:
        raise ConfigError(f"--folds is {wanted!r}: give all, or numbers as in 0,2.") from None
    for fold in folds:
        if not 0 <= fold < count:
            raise ConfigError(f"--folds names fold {fold}: {bundle} has the folds 0 to {count - 1}.")
    return folds


def number_of_folds(bundle: Path, overrides: Sequence[str] = ()) -> int:
    """How many folds a bundle has: those of its splits file, if it was planned with one or is given another.

    Raises:
        ConfigError: not a bundle.
    """
    config = read_config(bundle, "train.json")
    stated = dict(zip(overrides[::2], overrides[1::2], strict=True)).get("--splits_file")
    if stated is not None and stated != "null":
        return len(read_json(Path(stated), "correct --splits_file"))
    if config.get("splits_file") is None or stated == "null":
        return int(config["folds"])
    from unet_bundle.planning.template.shared import SPLITS

    return len(read_json(bundle / SPLITS, "plan the bundle again"))


def run_folder(bundle: Path, fold: int) -> Path:
    """Where the run of a fold lies, as train.json has it."""
    return bundle / "runs" / f"fold_{fold}"


def best_weights(bundle: Path, fold: int, *, to_score: bool) -> Path:
    """The best weights of a fold's run.

    Args:
        bundle: folder of the bundle.
        fold: number of the fold.
        to_score: whether they are to be scored on the cases of the fold, and not only used.

    Raises:
        CheckpointError: there are none, or to be scored nobody knows on which cases they were trained.
    """
    from unet_bundle.networks.checkpoint import short_name
    from unet_bundle.training.checkpoints import BEST
    from unet_bundle.training.trained_cases import read_trained_cases

    path = run_folder(bundle, fold) / BEST
    if not path.is_file():
        raise CheckpointError(f"{short_name(path)} is missing: train it first (unet-bundle train --folds {fold}).")
    if to_score and read_trained_cases(path) is None:
        raise CheckpointError(
            f"nothing is known of the cases {short_name(path)} was trained on, they may be among those to be scored:"
            f" train it again (unet-bundle train --folds {fold})."
        )
    return path


def refuse_overrides(arguments: Sequence[str], keys: Sequence[str]) -> None:
    """Refuse overrides that would be the same for each fold and must not be.

    Args:
        arguments: ``--key value`` pairs, keys and values in turn.
        keys: that each fold has its own value of.

    Raises:
        ConfigError: one of them is given.
    """
    for flag in arguments[::2]:
        if flag.removeprefix("--") in keys:
            raise ConfigError(f"{flag} would be the same for all folds, but each has its own: leave it out.")


def say_failed(failed: dict[int, str]) -> None:
    """Name the folds that failed, as the last lines of the output."""
    for fold, message in failed.items():
        say(f"  failed: fold {fold}: {message}")


def check_one_choice(args: argparse.Namespace) -> None:
    """Refuse ``--fold`` beside ``--folds``.

    Raises:
        ConfigError: both are given.
    """
    if args.folds is not None and args.fold is not None:
        raise ConfigError("--fold and --folds are both given: keep one of them.")
