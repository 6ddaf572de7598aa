"""What does each choice of the training recipe bring? Changes one at a time and scores the same cases.

    python scripts/ablation_recipe.py BUNDLE DATASET --epochs 10 --seeds 0 1 --json table.json

Every run has the same cases and steps; weights are those of the last step (or their running mean), scored on the whole
validation part of fold 0, on the scans' own grids. The recipe as it is runs with each seed, which tells what chance
does; each change with the first. `--set` goes to all runs, such as `--set network_def::channels "[16,32,64,128]"`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from ablation_sparse import call

AS_IT_IS = "as it is"
CHANGES = {
    "learning rate 0.0003": {"learning_rate": 0.0003},
    "learning rate 0.003": {"learning_rate": 0.003},
    "SGD, as nnU-Net": {"optimizer_name": "SGD", "learning_rate": 0.01, "weight_decay": 0.00003, "schedule": "poly"},
    "schedule poly": {"schedule": "poly"},
    "mean of weights, 0.99": {"ema_decay": 0.99},
    "no deep supervision": {"network_def::deep_supervision": False},
    "no foreground oversampling": {"foreground_fraction": 0},
    "cross-entropy alone": {"loss::loss::lambda_dice": 0},
    "Dice alone": {"loss::loss::lambda_ce": 0},
    "no clipping of gradients": {"max_gradient_norm": None},
}


def main() -> None:
    """Train, score, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--changes", nargs="*", default=list(CHANGES), choices=list(CHANGES), metavar="NAME")
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    runs = [(AS_IT_IS, seed) for seed in args.seeds] + [(name, args.seeds[0]) for name in args.changes]
    table = []
    for name, seed in runs:
        scores = train_and_score(args, {**dict(args.set), **CHANGES.get(name, {}), "seed": seed})
        table.append({"change": name, "seed": seed, **scores})
        shown = "  ".join(f"{label} {value:.4f}" for label, value in scores.items())
        sys.stdout.write(f"{name:28} seed {seed}  {shown}\n")
        sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def train_and_score(args: argparse.Namespace, settings: dict[str, object]) -> dict[str, float]:
    """Mean Dice of each class, and of all, of a model trained anew."""
    length = {"max_epochs": args.epochs, "val_interval": args.epochs}
    network = {key: value for key, value in settings.items() if key.startswith("network_def::")}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name) / "bundle"
        shutil.copytree(args.bundle, work, ignore=shutil.ignore_patterns("models", "runs", "eval"))
        call("train", work, args.dataset, *options({**settings, **length}))
        call("evaluate", work, args.dataset, *options(network))
        scores = json.loads((work / "eval" / "scores.json").read_text(encoding="utf-8"))
    return {**scores["classes"], "mean": scores["mean"]}


def options(settings: dict[str, object]) -> list[str]:
    """As the command line takes them."""
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


if __name__ == "__main__":
    main()
