"""Inference side by side with nnU-Net v2's own predictor and a MONAI pipeline as in the model zoo: the same weights.

A U-Net is fitted to the example CT of TotalSegmentator, stretched to 512x512x250, written as a model folder of nnU-Net,
and imported from there, so that ours prepares the scan as nnU-Net does. Every row then takes the file of the
scan to the file of the label map in a process of its own, whose memory, with that of all processes it starts, is read
from outside (proportional set size, Linux). nnU-Net lives in an environment of its own, made on the first run:

    python scripts/benchmark_inference.py --example DATA/totalsegmentator_examples/ct --json ratios.json
    python scripts/benchmark_inference.py --example DATA/totalsegmentator_examples/ct --small   # does it all work?
    python scripts/benchmark_inference.py --example DATA/totalsegmentator_examples/ct --scale   # 100 to 1000 slices

Stages and rows that are done are kept in the work folder; `--fresh` measures all rows again, `--rows` some of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from inference_case import FEW_GROUPS, GROUPS, Case
from inference_rows import MONAI, NNUNET, OURS
from peers import PEERS, environment, say

SOURCES = Path(__file__).parent
SAMPLED_EVERY = 0.5
"""Seconds between two looks at the memory, at least."""
LOOKING = 0.01
"""Share of the time that looking may take: the kernel goes through all pages for it."""
LEAST_FREE = 500e6
"""Bytes of the machine's memory: with less, a row is ended and said to have run out of memory."""
STAGES = {
    "scan": "ours", "bundle": "ours", "pictures": "ours", "fit": "ours", "export": "ours", "nnunet": "nnunet",
    "import": "ours",
}  # fmt: skip
"""In this order; and whose environment each needs."""
FITTED = ("fit", "export", "nnunet", "import")
"""Stages that are done again for another number of steps; a longer fit goes on where the shorter one ended."""
PICTURES_OURS = ("pictures_ours", "pictures_ours_bfloat16", "pictures_ours_torch")
PICTURES_NNUNET = ("pictures_nnunet", "pictures_nnunet_2_workers", "pictures_nnunet_sequential")
PICTURE_ROWS = (*PICTURES_OURS, *PICTURES_NNUNET)
SLICES = (100, 200, 400, 800)
SCALED = "ours_bfloat16_openvino"
MANY_CLASSES = ("ours_bfloat16_openvino_105_classes", 1000)

Results = dict[str, dict[str, Any]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--example", type=Path, required=True, help="folder of example_ct.nii.gz and its label map")
    parser.add_argument("--json", type=Path, help="also write ratios and figures to this file")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "unet-bundle-inference")
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "unet-bundle-peers")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--fit-steps", type=int, help="steps of the fit; fitted weights are kept")
    parser.add_argument("--rows", nargs="+", default=[], help="measure these again, and none that was not measured")
    parser.add_argument("--fresh", action="store_true", help="measure all rows again")
    parser.add_argument("--small", action="store_true", help="everything tiny, to see that it works")
    parser.add_argument("--scale", action="store_true", help="100 to 800 slices, and 105 classes, of ours only")
    args = parser.parse_args()
    case = make_case(args)
    case.write()
    bench = Bench(case, args.peers, fresh=args.fresh, chosen=args.rows)
    if args.scale:
        figures = scale(bench, [side // 8 for side in SLICES] if args.small else list(SLICES), args.small)
    else:
        for stage in STAGES:
            bench.stage(stage)
        figures = compare(bench)
    print_figures(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def make_case(args: argparse.Namespace) -> Case:
    """The sizes: full, or tiny."""
    common = {"example": str(args.example.resolve()), "threads": args.threads}
    if args.small:
        return Case(
            work=str(args.work / "small"), shape=(128, 128, 64), pitch=6.0, groups=FEW_GROUPS, channels=[16, 32, 64],
            patch=32, fit_steps=args.fit_steps or 600, pictures=20, side=64, picture_channels=[8, 16, 32], **common,
        )  # fmt: skip
    return Case(
        work=str(args.work / "full"), shape=(512, 512, 250), pitch=1.5, groups=GROUPS,
        channels=[32, 64, 128, 256, 320], patch=96, fit_steps=args.fit_steps or 1600, pictures=250, side=128,
        picture_channels=[32, 64, 128, 256, 512, 512], **common,
    )  # fmt: skip


class Bench:
    """Runs stages and rows, or remembers what they gave.

    Args:
        case: sizes and the folder of all files.
        peers: folder of environments.
        fresh: run all rows again.
        chosen: rows to run again; of the others, those measured before count.
    """

    def __init__(self, case: Case, peers: Path, *, fresh: bool, chosen: list[str]) -> None:
        self.case, self.peers, self.fresh, self.chosen = case, peers, fresh, chosen
        self.ours = _digest((SOURCES.parent / "src" / "unet_bundle").rglob("*.py"))

    def stage(self, name: str) -> None:
        """Run a stage of `inference_case.py`, if it was not done."""
        steps = f"_{self.case.fit_steps}" if name in FITTED else ""
        done = self.case.path("done", name.replace(":", "_") + steps)
        if done.exists():
            return
        start = time.perf_counter()
        env = environment(self.peers) if STAGES.get(name) == "nnunet" else sys.executable
        command = [env, "-W", "ignore", SOURCES / "inference_case.py", name, self.case.path("case.json")]
        if subprocess.run(list(map(str, command)), check=False, env=self._variables()).returncode:  # noqa: S603  (our own)
            sys.exit(f"failed: {name}")
        done.parent.mkdir(exist_ok=True)
        done.touch()
        say(f"{name:28}{time.perf_counter() - start:8.1f} s")

    def _variables(self) -> dict[str, str]:
        """Of every process: threads, and what nnU-Net is told by them."""
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.case.threads))
        nnunet = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), self.case.work)
        return {**os.environ, **limits, **nnunet, "nnUNet_compile": "f"}

    def row(self, name: str, source: Path, label: str = "") -> dict[str, Any]:
        """Seconds from file to file, of the whole process, and peak memory of a row; or why there are none.

        Args:
            name: of the row.
            source: scan, or folder of pictures.
            label: what to call the run, if not by the row's name.
        """
        label = label or name
        kept = self.case.path("results", f"{label}.json")
        state = self.state(name)
        if kept.exists():
            result: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
            current = not self.chosen and not self.fresh and result["state"] == state
            if current or (self.chosen and name not in self.chosen):
                return result
        elif self.chosen and name not in self.chosen:
            return {"failed": "not measured"}
        python = environment(self.peers) if "nnunet" in name else sys.executable
        script, output = SOURCES / "inference_rows.py", self.case.path("output", label)
        command = [python, "-W", "ignore", script, name, self.case.path("case.json"), source, output]
        variables = {**self._variables(), "CUDA_VISIBLE_DEVICES": ""}  # all rows on the CPU
        result = measure(list(map(str, command)), variables, self.case.path("logs", f"{label}.txt"))
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps({**result, "state": state}), encoding="utf-8")
        say(f"{label:28}{describe(result)}")
        return result

    def state(self, name: str) -> str:
        """Of all that a row's figures depend on, the machine left out."""
        parts = [str(self.case.threads), _digest(SOURCES.glob("inference_rows.py"))]
        if "nnunet" in name:
            parts += PEERS
        else:
            parts += [f"{each} {version(each)}" for each in ("torch", "monai")]
            parts += [] if "monai" in name else [self.ours]
        weights = self.case.path("picture_bundle" if "pictures" in name else "bundle", "models", "model.pt")
        return " ".join([*parts, _digest([weights])])

    def labels(self, name: str) -> Any:
        """The label map that a row wrote, or None."""
        import nibabel

        files = sorted(self.case.path("output", name).glob("*.nii.gz"))
        return np.asarray(nibabel.load(files[0]).dataobj).astype(np.uint8) if files else None


def _digest(paths: Iterable[Path]) -> str:
    """Of what is in files: rows measured with other code or weights do not count."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest()[:16]


def measure(command: list[str], variables: dict[str, str], log: Path) -> dict[str, Any]:
    """Run a command; its own seconds, those of the process, and the peak memory of all its processes, in GB."""
    log.parent.mkdir(exist_ok=True)
    start, peak, ended = time.perf_counter(), 0, ""
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=variables, text=True)  # noqa: S603
        reader = _Reader(process)
        while process.poll() is None:
            looked = time.perf_counter()
            peak = max(peak, tree_memory(process.pid))
            if psutil.virtual_memory().available < LEAST_FREE:
                ended = "out of memory"
                end_tree(process.pid)
            time.sleep(max(SAMPLED_EVERY, (time.perf_counter() - looked) / LOOKING))
        lines = reader.lines()
    result: dict[str, Any] = {"process_seconds": time.perf_counter() - start, "peak_gb": peak / 1e9}
    if ended or process.returncode:
        return {**result, "failed": ended or f"exit code {process.returncode}, see logs/{log.name}"}
    found = json.loads(lines[-1])
    return {**result, **found, "peak_gb": max(result["peak_gb"], found["own_peak_gb"])}


class _Reader:
    """Reads what a process prints while it runs, so that it never waits for a full pipe."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        import threading

        self.text = ""
        self.process = process
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101  (for the type checker)
        self.text = self.process.stdout.read()

    def lines(self) -> list[str]:
        self.thread.join()
        return self.text.strip().splitlines()


def tree_memory(pid: int) -> int:
    """Bytes of a process and all that it started; what several share counts once."""
    total = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in tree:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total


def end_tree(pid: int) -> None:
    """End a process of ours and all that it started."""
    try:
        tree = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        try:
            process.kill()
        except psutil.NoSuchProcess:  # noqa: PERF203  (each ends by itself)
            continue


def compare(bench: Bench) -> dict[str, Any]:
    """Run all rows on the scan and the pictures; ratios and figures, flat."""
    case = bench.case
    scan = case.path("scan.nii.gz")
    rows = {name: bench.row(name, scan) for name in (*OURS, *NNUNET, *MONAI)}
    rows |= {name: bench.row(name, case.path("pictures")) for name in PICTURE_ROWS}
    reference, theirs = bench.labels("ours_float32"), bench.labels("nnunet")
    quality = {
        name: {**dices(bench.labels(name), reference, case), "agreement_nnunet": agreement(bench.labels(name), theirs)}
        for name, result in rows.items()
        if name not in PICTURE_ROWS and "failed" not in result
    }
    print_table(rows, quality)
    best = "ours_bfloat16_openvino"
    figures: dict[str, Any] = {
        "time_vs_nnunet": ratio(rows, "seconds", list(NNUNET), best),
        "time_vs_monai": ratio(rows, "seconds", list(MONAI), best),
        "memory_vs_nnunet": ratio(rows, "peak_gb", list(NNUNET), best),
        "dice_vs_float32": quality.get(best, {}).get("dice"),
        "worst_class_dice_vs_float32": quality.get(best, {}).get("worst_dice"),
        "agreement": quality.get("ours_float32", {}).get("agreement_nnunet"),
        "small_2d_vs_nnunet": ratio(rows, "seconds", list(PICTURES_NNUNET), "pictures_ours"),
        "small_2d_vs_nnunet_command_line": ratio(rows, "seconds", ["pictures_nnunet"], "pictures_ours"),
        "time_float32_vs_nnunet": ratio(rows, "seconds", list(NNUNET), "ours_float32"),
        "time_vs_nnunet_whole_process": ratio(rows, "process_seconds", list(NNUNET), best),
        "memory_vs_monai": ratio(rows, "peak_gb", list(MONAI), best),
        "pictures_agreement": pictures_agreement(case),
    }
    for name, result in rows.items():
        figures |= {f"{name}_{key}": round(result[key], 3) for key in ("seconds", "peak_gb") if key in result}
    return {name: value for name, value in figures.items() if value is not None}


def ratio(rows: Results, key: str, theirs: list[str], own: str) -> float | None:
    """The least of theirs over ours; None where either is missing."""
    values = [rows[name][key] for name in theirs if "failed" not in rows[name]]
    if not values or "failed" in rows[own]:
        return None
    return round(float(min(values) / rows[own][key]), 3)


def dices(labels: Any, reference: Any, case: Case) -> dict[str, float]:
    """Dice of all classes pooled, and the least of those over 1 ml, against other labels."""
    if labels is None or reference is None:
        return {}
    count = len(case.groups) + 1
    joint = np.bincount(reference.ravel().astype(np.int64) * count + labels.ravel(), minlength=count**2)
    joint = joint.reshape(count, count)
    both, either = np.diag(joint)[1:], (joint.sum(axis=0) + joint.sum(axis=1))[1:]
    large = joint.sum(axis=1)[1:] * float(np.prod(case.spacing)) > 1000
    worst = float((2 * both / np.maximum(either, 1))[large].min()) if large.any() else float("nan")
    return {"dice": round(float(2 * both.sum() / max(either.sum(), 1)), 6), "worst_dice": round(worst, 6)}


def agreement(labels: Any, theirs: Any) -> float | None:
    """Percentage of the voxels in which either has foreground that have the same label."""
    if labels is None or theirs is None:
        return None
    foreground = (labels > 0) | (theirs > 0)
    return round(100 * float((labels == theirs)[foreground].mean()), 4)


def pictures_agreement(case: Case) -> float | None:
    """Percentage of foreground pixels of all pictures in which ours and nnU-Net's labels are the same."""
    from PIL import Image

    pairs = []
    for path in sorted(case.path("output", "pictures_nnunet").glob("*.png")):
        own = case.path("output", "pictures_ours", f"{path.stem}_seg.png")
        if own.exists():
            pairs.append([np.asarray(Image.open(file)).ravel() for file in (own, path)])
    return agreement(*(np.concatenate(part) for part in zip(*pairs, strict=True))) if pairs else None


def scale(bench: Bench, slices: list[int], small: bool) -> dict[str, Any]:
    """Time and memory of ours over the number of slices, and of very many classes; with a plot."""
    for stage in (*STAGES, "bundle_105"):  # the rows run the bundle that is imported at the end of them
        bench.stage(stage)
    figures: dict[str, Any] = {}
    rows: dict[str, list[dict[str, Any]]] = {SCALED: [], "read": []}
    bench.case.path("scale").mkdir(exist_ok=True)
    row, most = MANY_CLASSES[0], MANY_CLASSES[1] // (8 if small else 1)
    for number in [*slices, most]:
        bench.stage(f"scan:{number}")
    for number in slices:
        for name, results in rows.items():
            source = bench.case.path("scale", f"scan_{number}.nii.gz")
            results.append(bench.row(name, source, f"{name}_{number}_slices"))
            figures |= {f"{name}_{number}_{key}": results[-1].get(key) for key in ("seconds", "peak_gb")}
    seconds, memory, reading = (
        [each.get(key, float("nan")) for each in rows[name]]
        for name, key in ((SCALED, "seconds"), (SCALED, "peak_gb"), ("read", "peak_gb"))
    )
    beyond = [whole - part for whole, part in zip(memory, reading, strict=True)]
    figures["scale_time_per_slice"] = (seconds[-1] / slices[-1]) / (seconds[0] / slices[0])
    figures["scale_memory"] = memory[-1] / memory[0]
    figures["scale_memory_beyond_reading"] = beyond[-1] / beyond[0]
    plot(bench.case.path("scale.png"), slices, seconds, memory, reading)
    say(f"plot: {bench.case.path('scale.png')}")
    many = bench.row(row, bench.case.path("scale", f"scan_{most}.nii.gz"), f"{row}_{most}_slices")
    figures |= {f"{row}_{most}_{key}": many.get(key) for key in ("seconds", "peak_gb")}
    return {name: round(value, 3) for name, value in figures.items() if value is not None}


def plot(path: Path, slices: list[int], seconds: list[float], memory: list[float], reading: list[float]) -> None:
    """Time and memory over slices."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.plot(slices, seconds, "o-")
    left.set(xlabel="slices of 512x512", ylabel="seconds, file to file", ylim=0, xlim=0)
    right.plot(slices, memory, "o-", label="whole run")
    right.plot(slices, reading, "s--", label="reading and resampling the scan alone")
    right.set(xlabel="slices of 512x512", ylabel="peak memory, GB", ylim=0, xlim=0)
    right.legend()
    figure.savefig(path, dpi=150)


def describe(result: dict[str, Any]) -> str:
    """A row in numbers."""
    if "failed" in result:
        return f"   {result['failed']} ({result.get('peak_gb', 0):.2f} GB)"
    return f"{result['seconds']:8.1f} s{result['process_seconds']:9.1f} s{result['peak_gb']:8.2f} GB"


def print_table(rows: Results, quality: dict[str, dict[str, Any]]) -> None:
    """One line a row."""
    say(f"\n{'':28}{'file to file':>10}{'process':>9}{'peak memory':>11}{'Dice':>9}{'worst':>9}{'as nnU-Net':>12}")
    for name, result in rows.items():
        line = f"{name:28}{describe(result)}"
        found = quality.get(name, {})
        line += "".join(f"{found[key]:9.5f}" for key in ("dice", "worst_dice") if key in found)
        if found.get("agreement_nnunet") is not None:
            line += f"{found['agreement_nnunet']:11.3f} %"
        say(line)


def print_figures(figures: dict[str, Any]) -> None:
    """One line a figure."""
    say("\n" + "\n".join(f"{name:44}{value:10.3f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
