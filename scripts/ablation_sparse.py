"""How much does it cost to label only some slices? Trains on one slice in five and on all, and scores on full labels.

    python scripts/ablation_sparse.py DATASET --card configs/hippocampus.yaml --every 5 --epochs 40 --json table.json

Both trainings have the same cases, plan, steps and seed. All other slices of the sparse copy get a value to be ignored;
both bundles are scored on the validation part of fold 0 against the full labels, on the scans' own grids.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from unet_bundle.io import case_name, find_cases

UNLABELLED = 255


def main() -> None:
    """Train, score, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--card", type=Path, required=True)
    parser.add_argument("--every", type=int, default=5, help="one slice in so many is labelled (default: 5)")
    parser.add_argument("--axis", type=int, default=2, help="axis of the files across which slices lie (default: 2)")
    parser.add_argument("--cases", type=int, help="the first so many cases only")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, every in (("full", 1), ("sparse", args.every)):
            write_copy(args, folder / kind, every)
            bundle = train(args, folder, kind)
            call("evaluate", bundle, folder / "full")
            scores = json.loads((bundle / "eval" / "scores.json").read_text(encoding="utf-8"))
            table[kind] = {"mean": scores["mean"], **scores["classes"]}
            shown = ", ".join(f"{label} {value:.4f}" for label, value in table[kind].items())
            sys.stdout.write(f"1 slice in {every}: {shown}\n")
            sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def write_copy(args: argparse.Namespace, folder: Path, every: int) -> None:
    """The data set with one slice in `every` labelled; images are linked, not copied."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for case in find_cases(args.dataset)[: args.cases]:
        name = case_name(case["image"])
        label = nib.load(case["label"])
        voxels = np.asarray(label.dataobj).astype(np.uint8)
        unlabelled = np.arange(voxels.shape[args.axis]) % every != every // 2
        np.moveaxis(voxels, args.axis, 0)[unlabelled] = UNLABELLED
        label.header.set_data_dtype(np.uint8)
        nib.save(nib.Nifti1Image(voxels, None, label.header), folder / "labels" / f"{name}.nii.gz")
        image = Path(case["image"])
        (folder / "images" / image.name).symlink_to(image.resolve())


def train(args: argparse.Namespace, folder: Path, kind: str) -> Path:
    """A bundle planned for and trained on a copy."""
    card = yaml.safe_load(args.card.read_text(encoding="utf-8"))
    if kind == "sparse":
        card["ignore"] = UNLABELLED
    path, bundle = folder / f"{kind}.yaml", folder / f"{kind}_bundle"
    path.write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
    call("plan", folder / kind, "--card", path, "--output", bundle)
    interval = max(args.epochs // 4, 1)
    settings = ["--max_epochs", args.epochs, "--val_interval", interval, "--seed", args.seed]
    call("train", bundle, folder / kind, *settings)
    return bundle


def call(*arguments: Any) -> None:
    """One verb of ``unet-bundle``; its error output is shown only if it fails."""
    line = [sys.executable, "-m", "unet_bundle.cli", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"{arguments[0]} failed:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
