"""Do border weights tell touching objects apart? Trains with and without them and scores the same cases.

    python scripts/ablation_border_weight.py BUNDLE DATASET --seeds 0 1 2 --epochs 10 --pictures out --json table.json

BUNDLE is planned with a card that states `instances` and `border_weight`, such as configs/nuclei_borders.yaml. Every
pair of runs has the same cases, steps, seed and seams between objects that touch; "without" has w0 = 0, which is a
weight of 1 everywhere. All are scored on the whole validation part of the fold, on the pictures' own grids.
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
from typing import Any

import matplotlib as mpl
import numpy as np

from unet_bundle.io import LoadImaged, find_cases
from unet_bundle.io.layouts import case_name

mpl.use("Agg")

KINDS = {"without": ["--border_weight::w0", "0"], "weighted": []}
SHOWN = ("ap", "ap50", "seg", "aji")


def main() -> None:
    """Train, score, print the table, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--smallest", type=float, default=0.02, help="objects below are dropped; 0.02: 20 pixels")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    results: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            evaluated = {kind: Path(folder) / f"{kind}_{seed}" for kind in KINDS}
            for kind, work in evaluated.items():
                report = train_and_score(args, KINDS[kind], seed, work)
                results[kind].append({"seed": seed, "dice": report["mean"], **report["objects"]})
                say(f"seed {seed}, {kind:8}: {line(results[kind][-1:])}")
            if args.pictures:
                draw(args, evaluated, results, seed)
    for kind, rows in results.items():
        say(f"mean of {len(rows)}, {kind:8}: {line(rows)}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def line(rows: list[dict[str, Any]]) -> str:
    """Means of the runs."""
    scores = {name: statistics.mean(row["mean"][name] for row in rows) for name in SHOWN}
    counts = {name: statistics.mean(row["total"][name] for row in rows) for name in ("merged", "found", "true")}
    cells = [f"Dice {statistics.mean(row['dice'] for row in rows):.4f}"]
    cells += [f"{name} {value:.4f}" for name, value in scores.items()]
    cells += [f"{name} {value:.1f}" for name, value in counts.items()]
    return "  ".join(cells)


def train_and_score(args: argparse.Namespace, options: list[str], seed: int, work: Path) -> dict[str, Any]:
    """The report on a model trained anew."""
    shutil.copytree(args.bundle, work, ignore=shutil.ignore_patterns("models", "runs", "eval"))
    train = ["--max_epochs", str(args.epochs), "--seed", str(seed), *options]
    for verb, rest in (("train", train), ("evaluate", ["--smallest_object_ml", str(args.smallest)])):
        call = [sys.executable, "-m", "unet_bundle.cli", verb, str(work), str(args.dataset), "--fold", str(args.fold)]
        done = subprocess.run([*call, *rest], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            sys.exit(f"{verb} failed:\n{done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads((work / "eval" / "scores.json").read_text(encoding="utf-8"))
    return report


def draw(args: argparse.Namespace, evaluated: dict[str, Path], results: dict[str, Any], seed: int) -> None:
    """Picture, truth and what each model found, of the case with most nuclei merged without weights."""
    from matplotlib import pyplot as plt

    cases = results["without"][-1]["cases"]
    name = max(sorted(cases), key=lambda case: cases[case]["merged"])
    case = next(case for case in find_cases(args.dataset) if case_name(case["image"]) == name)
    loaded = LoadImaged(["image", "label"])(case)
    panels = [("picture", loaded["image"].numpy().mean(axis=0).T), ("truth", coloured(loaded["label"][0].numpy().T))]
    for kind, work in evaluated.items():
        found = plt.imread(work / "eval" / f"{name}_instances.png")
        merged = results[kind][-1]["cases"][name]["merged"]
        panels.append((f"{kind}: {merged:.0f} merged", coloured(np.rint(found * 65535).astype(int))))
    height = 5 * panels[0][1].shape[0] / panels[0][1].shape[1] + 0.3
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), height), layout="constrained")
    for axis, (title, panel) in zip(axes, panels, strict=True):
        axis.imshow(panel, cmap="gray", interpolation="nearest")
        axis.set_title(title)
        axis.axis("off")
    args.pictures.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.pictures / f"border_weight_seed_{seed}.png", dpi=100)
    plt.close(figure)


def coloured(objects: np.ndarray) -> np.ndarray:
    """A colour for each number, black for background."""
    colours = np.random.default_rng(0).uniform(0.25, 1.0, (65536, 3))
    colours[0] = 0
    return colours[objects.astype(int)]


if __name__ == "__main__":
    main()
