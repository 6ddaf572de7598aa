"""Training side by side with nnU-Net v2: equal cases, equal cores, equal wall time, one Dice code for both.

Ours is planned and trained by `unet-bundle`, nnU-Net by its own planner and trainer, in an environment of its own that
is made on the first run. nnU-Net gets the wall time that the process of our training took; its schedule is cut to end
in it by its measured speed, its validation during training is left out, and its preprocessing is not counted. Both
train on fold 0 and segment its validation cases, nnU-Net also with mirroring. A pure speed stage trains both on equal
network, patch and batch: those of nnU-Net's plan.

    python scripts/benchmark_training.py DATASET --card configs/hippocampus.yaml --minutes 20 --json figures.json
    python scripts/benchmark_training.py DATASET --card configs/hippocampus.yaml --small         # does it all work?
    python scripts/benchmark_training.py DATASET --card configs/hippocampus.yaml --few-labels    # ours, over cases

Stages that are done are kept in the work folder, as long as their commands, settings and code stay; `--fresh` forgets
them. Ours is scored twice: the weights that are published, which did best on these very cases during training, and
those of the last step, as nnU-Net's are; the gain is that of the latter.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers import PEERS, environment, say

SOURCES = Path(__file__).parent
NNUNET_FOLDER = "Dataset004_Benchmark"
SMALL_CASES = 24
CLOSING_SECONDS = 3.0
"""Kept of nnU-Net's time for what follows its last iteration: writing the checkpoint."""
SEED = 0
SIZES = (5, 10, 20, 40, 80, 160)

Figures = dict[str, Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="folder of labelled NIfTI scans, one file a scan")
    parser.add_argument("--card", type=Path, required=True, help="task card of the data set")
    parser.add_argument("--minutes", type=float, default=20, help="of each training")
    parser.add_argument("--speed-minutes", type=float, default=2, help="of each measurement of speed")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", help="memory target of our plan (default: cpu, or 24GB with --device cuda)")
    parser.add_argument("--few-labels", action="store_true", help="Dice of ours over the number of training cases")
    parser.add_argument("--epochs", type=int, help="with --few-labels: so many epochs each, instead of minutes")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "unet-bundle-training")
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "unet-bundle-peers")
    parser.add_argument("--fresh", action="store_true", help="do all stages again")
    parser.add_argument("--small", action="store_true", help="few cases, short trainings, to see that all works")
    args = parser.parse_args()
    if args.small:
        args.minutes, args.speed_minutes = 0.4, 0.15
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])  # of all processes started from here
    bench = Bench(args)
    figures = few_labels(bench) if args.few_labels else compare(bench)
    say("\n" + "\n".join(f"{name:44}{shown(value)}" for name, value in figures.items()))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


class Bench:
    """Runs stages, or remembers what they gave.

    Args:
        args: of the command line.

    Attributes:
        anew: whether a stage was run, so that what is kept of those behind it does not count.
        training: names of the training cases.
        validation: names of the validation cases.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.minutes = args.minutes
        self.anew = False
        self.work = args.work.resolve() / ("small" if args.small else "full") / args.device
        if args.fresh and self.work.exists():
            shutil.rmtree(self.work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.dataset = self._small_dataset() if args.small else args.dataset.resolve()
        self.bundle = self.work / "bundles" / "planned"
        self.preprocessed = self.work / "preprocessed" / NNUNET_FOLDER
        self.splits = self.work / "splits.json"
        self.ours("plan", "plan", self.dataset, "--output", self.bundle, "--card", args.card.resolve(), *self._target())
        self.files, self.training, self.validation = self._cases()
        self.splits.write_text(json.dumps([{"train": self.training, "val": self.validation}]), encoding="utf-8")

    def ours(self, stage: str, *command: Any, work_on: Path | None = None) -> Figures:
        """Run the command line of ours, if that was not done: seconds, and share of the cores that was used.

        Args:
            stage: its name.
            command: of ``unet-bundle``.
            work_on: a bundle that the command changes: it is made as it was planned first.
        """
        return self.stage(stage, sys.executable, "-m", "unet_bundle.cli", *command, work_on=work_on)

    def bundle_for(self, stage: str) -> Path:
        """The folder of the bundle that a stage works on."""
        return self.work / "bundles" / stage

    def script(self, stage: str, script: str, part: str, *, work_on: Path | None = None, **settings: Any) -> Figures:
        """Run a part of a script beside this one, if that was not done; `work_on` as for `ours`."""
        python = environment(self.args.peers) if "nnunet" in script else sys.executable
        file = self.work / "settings" / f"{stage}.json"
        file.parent.mkdir(exist_ok=True)
        common = {"device": self.args.device, "cores": self.args.cores, "preprocessed": str(self.preprocessed)}
        warm_up = 1 if self.args.small else 3
        file.write_text(json.dumps({**common, "warm_up": warm_up, **settings}, default=str), encoding="utf-8")
        nnunet = {
            "nnUNet_compile": "t" if settings.get("compile") else "f",
            "nnUNet_n_proc_DA": str(settings.get("workers", 1)),
        }
        return self.stage(stage, python, SOURCES / script, part, file, variables=nnunet, work_on=work_on)

    def stage(
        self,
        stage: str,
        python: str,
        *command: Any,
        variables: dict[str, str] | None = None,
        work_on: Path | None = None,
    ) -> Figures:
        """Run a process to its end and keep what it measured: `process_seconds`, `core_use` and its last line.

        What an earlier run kept counts as long as nothing of `_state` and no stage before it has changed.
        """
        kept, log = self.work / "results" / f"{stage}.json", self.work / "logs" / f"{stage}.txt"
        words = [str(word) for word in (python, "-W", "ignore", *command)]
        state = self._state(words)
        if kept.exists() and not self.anew:
            known: Figures = json.loads(kept.read_text(encoding="utf-8"))
            if known.get("state") == state:
                return known
        self.anew = True
        for file in (kept, log):
            file.parent.mkdir(exist_ok=True)
        if work_on is not None:
            shutil.rmtree(work_on, ignore_errors=True)
            shutil.copytree(self.bundle, work_on)
        say(f"{stage} ...")
        start, before = time.monotonic(), os.times()
        with log.open("w", encoding="utf-8") as output:
            status = subprocess.run(  # noqa: S603  (our own)
                words,
                check=False,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self._variables(), **(variables or {})},
            ).returncode
        seconds, after = time.monotonic() - start, os.times()
        if status:
            say("\n".join(log.read_text(encoding="utf-8").splitlines()[-15:]))
            sys.exit(f"failed: {stage}, see {log}")
        busy = after.children_user + after.children_system - before.children_user - before.children_system
        use = busy / seconds / self.args.cores
        result = {"process_seconds": seconds, "core_use": use, **_last_line(log), "state": state}
        kept.write_text(json.dumps(result), encoding="utf-8")
        say(f"{stage:28}{seconds:8.1f} s, {100 * use:3.0f} % of {self.args.cores} cores")
        return result

    def _state(self, words: list[str]) -> str:
        """Of all that a stage's figures depend on, the machine left out: command, settings, cases, card and code."""
        args = self.args
        files = [Path(word) for word in words if word.endswith((".json", ".py"))]
        files += [args.card, *sorted((SOURCES.parent / "src" / "unet_bundle").rglob("*.py"))]
        parts = [*words, *PEERS, str(args.cores)]
        parts += [f"{file.name} {file.stat().st_size}" for file in sorted(self.dataset.rglob("*.nii.gz"))]
        content = b"".join(file.read_bytes() for file in files if file.is_file())
        return hashlib.sha256("\n".join(parts).encode() + content).hexdigest()[:16]

    def _variables(self) -> dict[str, str]:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        limits = dict.fromkeys(names, str(self.args.cores))
        folders = {f"nnUNet_{name}": str(self.work / name) for name in ("raw", "preprocessed", "results_nnunet")}
        folders["nnUNet_results"] = folders.pop("nnUNet_results_nnunet")
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.args.device == "cpu" else {}
        return {**os.environ, **limits, **folders, **hidden}

    def _target(self) -> list[str]:
        return ["--memory", self.args.memory or ("cpu" if self.args.device == "cpu" else "24GB")]

    def _small_dataset(self) -> Path:
        """A folder with links to the first cases."""
        folder: Path = self.work / "dataset"
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True, exist_ok=True)
            for file in sorted((self.args.dataset.resolve() / part).glob("*.nii.gz"))[:SMALL_CASES]:
                _link(file, folder / part / file.name)
        return folder

    def _cases(self) -> tuple[dict[str, tuple[Path, Path]], list[str], list[str]]:
        """Scan and label file by name, and the names of both sides of fold 0."""
        from unet_bundle.io import case_name, find_cases, select_cases

        config = json.loads((self.bundle / "configs" / "evaluate.json").read_text(encoding="utf-8"))
        split = {"folds": config["folds"], "subject_key": config["subject_key"], "seed": config["split_seed"]}
        found = find_cases(self.dataset)
        if any(isinstance(case["image"], list) for case in found):
            sys.exit("the benchmark takes data sets of one file a scan")
        files = {case_name(case["image"]): (Path(case["image"]), Path(case["label"])) for case in found}
        sides = [[case_name(case["image"]) for case in select_cases(found, side, 0, **split)] for side in _SIDES]
        return files, *sides


_SIDES = ("train", "validation")


def compare(bench: Bench) -> Figures:
    """Speed, then a training of each, then their Dice."""
    prepare_nnunet(bench)
    speed = measure_speed(bench)
    minutes = f"{bench.minutes:g}min"
    bundle = bench.bundle_for(f"ours_train_{minutes}")
    ours = bench.ours(
        f"ours_train_{minutes}", "train", bundle, bench.dataset, "--max-minutes", bench.minutes,
        "--splits_file", bench.splits, work_on=bundle,
    )  # fmt: skip
    seconds = ours["process_seconds"]
    theirs = bench.script(
        f"nnunet_train_{minutes}", "training_nnunet.py", "train", seconds=seconds, closing=CLOSING_SECONDS,
        workers=speed["workers"], compile=speed["compiled"], start_up=speed["start_up"],
        seconds_per_iteration=speed["seconds_per_iteration"],
    )  # fmt: skip
    dice = {
        "ours": ours_dice(bench, bundle, f"ours_evaluate_{minutes}", bench.splits, last=True),
        "ours_published": ours_dice(bench, bundle, f"ours_published_evaluate_{minutes}", bench.splits),
    }
    for name, mirroring in (("nnunet", False), ("nnunet_mirrored", True)):
        output = bench.work / "predictions" / f"{name}_{minutes}"
        bench.script(
            f"{name}_predict_{minutes}", "training_nnunet.py", "predict", folder=theirs["folder"], output=output,
            scans={case: bench.files[case][0] for case in bench.validation}, mirroring=mirroring,
        )  # fmt: skip
        dice[name] = score(bench, output, "{case}.nii.gz")
    print_dice(dice)
    best = max(("nnunet", "nnunet_mirrored"), key=lambda name: dice[name]["mean"])
    return {
        "samples_per_second_vs_nnunet": speed["ours"] / speed["nnunet"],
        "dice_gain_vs_nnunet": dice["ours"]["mean"] - dice[best]["mean"],
        **{f"{name}_dice_{label}": value for name, values in dice.items() for label, value in values.items()},
        "ours_samples_per_second": speed["ours"],
        "nnunet_samples_per_second": speed["nnunet"],
        "nnunet_workers": speed["workers"],
        "ours_samples": ours_samples(bundle),
        "nnunet_samples": theirs["samples"],
        "ours_train_minutes": seconds / 60,
        "nnunet_train_minutes": theirs["process_seconds"] / 60,
        "ours_core_use": ours["core_use"],
        "nnunet_core_use": theirs["core_use"],
        "ours_speed_core_use": speed["ours_core_use"],
        "nnunet_speed_core_use": speed["nnunet_core_use"],
        "training_cases": len(bench.training),
        "validation_cases": len(bench.validation),
    }


def prepare_nnunet(bench: Bench) -> None:
    """Its raw data set as links, its plan and preprocessed cases, and our split."""
    raw = bench.work / "raw" / NNUNET_FOLDER
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True, exist_ok=True)
    for name, (scan, label) in bench.files.items():
        _link(scan, raw / "imagesTr" / f"{name}_0000.nii.gz")
        _link(label, raw / "labelsTr" / f"{name}.nii.gz")
    config = json.loads((bench.bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    channels = config["network_data_format"]["inputs"]["image"]["channel_def"]
    dataset = {
        "channel_names": channels, "labels": _labels(bench), "numTraining": len(bench.files),
        "file_ending": ".nii.gz",
    }  # fmt: skip
    (raw / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    # A small batch in the small mode: it is to be quick, not to be compared.
    bench.script("nnunet_plan", "training_nnunet.py", "plan", batch_size=2 if bench.args.small else None)
    shutil.copyfile(bench.splits, bench.preprocessed / "splits_final.json")


def measure_speed(bench: Bench) -> Figures:
    """Samples a second of both; nnU-Net with the augmenting processes, and on GPUs the compiling, that suit it best."""
    seconds = bench.args.speed_minutes * 60
    many = min(12, bench.args.cores)
    choices = [(0, False), (1, False)] if bench.args.device == "cpu" else [(many, False), (many, True)]
    rows = {
        (workers, compiled): bench.script(
            f"nnunet_speed_{workers}_workers{'_compiled' if compiled else ''}", "training_nnunet.py", "throughput",
            workers=workers, compile=compiled, seconds=seconds / len(choices),
        )
        for workers, compiled in choices
    }  # fmt: skip
    workers, compiled = best = max(rows, key=lambda choice: rows[choice]["samples_per_second"])
    scan, label = bench.files[bench.validation[0]]
    bundle = bench.bundle_for("ours_speed")
    ours = bench.script(
        "ours_speed", "training_ours.py", "throughput", work_on=bundle, bundle=bundle, dataset=bench.dataset,
        splits=bench.splits, plans=bench.preprocessed / "nnUNetPlans.json", output=bench.work / "speed",
        validation=[{"image": str(scan), "label": str(label)}], seconds=seconds,
    )  # fmt: skip
    theirs = rows[best]
    if ours["parameters"] != theirs["parameters"]:
        sys.exit(f"networks differ: {ours['parameters']} parameters here, {theirs['parameters']} there")
    return {
        "ours": ours["samples_per_second"], "nnunet": theirs["samples_per_second"], "workers": workers,
        "compiled": compiled,
        "start_up": theirs["start_up"], "seconds_per_iteration": theirs["seconds_per_iteration"],
        "ours_core_use": ours["core_use"], "nnunet_core_use": theirs["core_use"],
    }  # fmt: skip


def few_labels(bench: Bench) -> Figures:
    """Dice of ours on the same validation cases, trained equally long on more and more of the training cases."""
    order = np.random.RandomState(SEED).permutation(sorted(bench.training)).tolist()
    sizes = sorted({min(size, len(order)) for size in SIZES})
    if bench.args.small:
        sizes = sizes[:2]
    epochs = bench.args.epochs
    length = ["--max-epochs", epochs] if epochs else ["--max-minutes", bench.minutes]
    each = f"{epochs} epochs" if epochs else f"{bench.minutes:g} minutes"
    figures: Figures = {}
    means = []
    for size in sizes:
        name = f"few_{size}_{each.replace(' ', '_')}"
        bundle, splits = bench.bundle_for(f"{name}_train"), bench.work / f"{name}_splits.json"
        splits.write_text(json.dumps([{"train": order[:size], "val": bench.validation}]), encoding="utf-8")
        bench.ours(f"{name}_train", "train", bundle, bench.dataset, *length, "--splits_file", splits, work_on=bundle)
        dice = ours_dice(bench, bundle, f"{name}_evaluate", splits, last=True)
        figures |= {f"few_{size}_dice_{label}": value for label, value in dice.items()}
        means.append(dice["mean"])
        say(f"{size:4} cases: mean Dice {dice['mean']:.4f}")
    plot(bench.work / "few_labels.png", sizes, means, each)
    say(f"plot: {bench.work / 'few_labels.png'}")
    return figures


def plot(path: Path, sizes: list[int], means: list[float], each: str) -> None:
    """Dice over the number of training cases."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    axes.plot(sizes, means, "o-")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="training cases", ylabel="mean Dice on the validation cases", title=f"{each} each")
    figure.savefig(path, dpi=150)


def ours_dice(bench: Bench, bundle: Path, stage: str, splits: Path, last: bool = False) -> dict[str, float]:
    """Dice of a bundle of ours on the validation cases: of the published weights, or those of the last step."""
    output = bench.work / "predictions" / stage
    weights = ["--checkpoint", bundle / "runs" / "fold_0" / "last.pt"] if last else []
    bench.ours(stage, "evaluate", bundle, bench.dataset, "--output-dir", output, "--splits_file", splits, *weights)
    return score(bench, output, "{case}_seg.nii.gz")


def ours_samples(bundle: Path) -> int:
    """How many patches the last training saw."""
    batch = json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8"))["batch_size"]
    lines = (bundle / "runs" / "fold_0" / "curves.csv").read_text(encoding="utf-8").splitlines()
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    return int(last["iteration"]) * int(batch)


def score(bench: Bench, folder: Path, name: str) -> dict[str, float]:
    """Mean Dice of each class over the validation cases, on their own grids, and the mean of the classes."""
    import nibabel

    from unet_bundle.evaluation.metrics import dice_scores
    from unet_bundle.evaluation.report import mean_of

    labels = _labels(bench)
    rows = []
    for case in bench.validation:
        pair = (nibabel.load(path) for path in (folder / name.format(case=case), bench.files[case][1]))
        found, true = (np.asarray(image.dataobj).astype(np.uint8) for image in pair)
        rows.append(dice_scores(found, true, len(labels)))
    names = sorted((label for label, value in labels.items() if value), key=labels.__getitem__)
    classes = {label: mean_of(column) or 0.0 for label, column in zip(names, zip(*rows, strict=True), strict=True)}
    return {**classes, "mean": float(np.mean(list(classes.values())))}


def print_dice(dice: dict[str, dict[str, float]]) -> None:
    """One line each."""
    labels = list(dice["ours"])
    say("\n" + f"{'Dice':20}" + "".join(f"{label:>14}" for label in labels))
    for name, values in dice.items():
        say(f"{name:20}" + "".join(f"{values[label]:14.4f}" for label in labels))


def shown(value: float) -> str:
    """A figure, aligned."""
    return f"{value:12d}" if isinstance(value, int) else f"{value:12.4f}"


def _labels(bench: Bench) -> dict[str, int]:
    labels: dict[str, int] = json.loads((bench.bundle / "configs" / "evaluate.json").read_text(encoding="utf-8"))[
        "labels"
    ]
    return labels


def _link(file: Path, place: Path) -> None:
    if not place.exists():
        place.symlink_to(file)


def _last_line(log: Path) -> Figures:
    """The JSON that a script prints last; nothing of a command that prints none."""
    lines = log.read_text(encoding="utf-8").rstrip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        return {}
    content: Figures = json.loads(lines[-1])
    return content


if __name__ == "__main__":
    main()
