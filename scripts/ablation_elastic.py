"""Does elastic deformation help when labels are few? Trains with and without it and scores the same cases.

    python scripts/ablation_elastic.py BUNDLE DATASET --cases 5 10 20 --seeds 0 1 --epochs 12 --json table.json

Every pair of runs has the same training cases, steps and seed; all are scored on the whole validation part of fold 0,
on the scans' own grids.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from unet_bundle.io import find_cases, select_cases
from unet_bundle.io.layouts import case_name

KINDS = {"without": 0.0, "elastic": 0.5}
"""Share of patches that are deformed."""


def main() -> None:
    """Train, score, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--cases", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    dice: dict[str, dict[int, list[float]]] = {kind: {count: [] for count in args.cases} for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for count in args.cases:
            for seed in args.seeds:
                splits = write_splits(args.bundle, args.dataset, count, seed, Path(folder))
                for kind, share in KINDS.items():
                    score = train_and_score(args, splits, share, seed, Path(folder) / "bundle")
                    dice[kind][count].append(score)
                    sys.stdout.write(f"{count} cases, seed {seed}, {kind}: mean Dice {score:.4f}\n")
                    sys.stdout.flush()
    for count in args.cases:
        means = {kind: statistics.mean(dice[kind][count]) for kind in KINDS}
        cells = "  ".join(f"{kind} {mean:.4f}" for kind, mean in means.items())
        sys.stdout.write(f"{count:4} cases: {cells}  difference {means['elastic'] - means['without']:+.4f}\n")
    if args.json:
        args.json.write_text(json.dumps(dice, indent=2) + "\n", encoding="utf-8")


def write_splits(bundle: Path, dataset: Path, count: int, seed: int, folder: Path) -> Path:
    """Fold 0 of the bundle with only some of its training cases, the validation cases as they are."""
    config = json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8"))
    fold = {"fold": 0, "folds": config["folds"], "subject_key": config["subject_key"], "seed": config["split_seed"]}
    names = {
        part: [case_name(case["image"]) for case in select_cases(find_cases(dataset), part=part, **fold)]
        for part in ("train", "validation")
    }
    step = max(len(names["train"]) // count, 1)
    few = names["train"][seed % step :: step][:count]
    path = folder / f"splits_{count}_{seed}.json"
    path.write_text(json.dumps([{"train": few, "val": names["validation"]}]), encoding="utf-8")
    return path


def train_and_score(args: argparse.Namespace, splits: Path, share: float, seed: int, work: Path) -> float:
    """Mean Dice of a model trained anew."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(args.bundle, work, ignore=shutil.ignore_patterns("models", "runs", "eval"))
    same = ["--splits_file", str(splits)]
    train = ["--max_epochs", str(args.epochs), "--seed", str(seed), "--train::spatial::elastic_prob", str(share)]
    for command in (["train", *train], ["evaluate"]):
        verb, *rest = command
        call = [sys.executable, "-m", "unet_bundle.cli", verb, str(work), str(args.dataset), *same, *rest]
        done = subprocess.run(call, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            sys.exit(f"{verb} failed:\n{done.stderr[-2000:]}")
    scores = json.loads((work / "eval" / "scores.json").read_text(encoding="utf-8"))
    return float(scores["mean"])


if __name__ == "__main__":
    main()
