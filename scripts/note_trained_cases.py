"""Note beside a bundle's weights which cases they were trained on: for weights that were put there by hand.

    python scripts/note_trained_cases.py BUNDLE DATASET --fold 0

Training writes this note itself. Here the cases are those that the bundle's train.json gives for the fold, so that it
has to be the plan the weights were trained with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from monai.bundle import ConfigParser

from unet_bundle.training.trained_cases import Origin, read_trained_cases, write_trained_cases


def main() -> None:
    """Write the note and say what it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="the data set it was trained on")
    parser.add_argument("--fold", type=int, default=0, help="that the weights were validated on (default: 0)")
    parser.add_argument("--source", type=Path, help="file of the weights that the training started from, if any")
    args = parser.parse_args()
    config = ConfigParser()
    config.read_config(args.bundle / "configs" / "train.json")
    config.update({"bundle_root": str(args.bundle), "dataset_dir": str(args.dataset), "fold": args.fold})
    cases = config.get_parsed_content("train::dataset::data")
    origin = Origin()
    if args.source is not None:
        origin.add(read_trained_cases(args.source))
    note = write_trained_cases(args.bundle / "models" / "model.pt", args.fold, cases, origin)
    print(f"{note}: fold {args.fold}, {len(cases)} training cases")


if __name__ == "__main__":
    main()
