"""Kill a training again and again at random moments, resume it each time, and compare with one that was left alone.

    python scripts/kill_and_resume.py BUNDLE DATASET --kills 5 --max_epochs 20

Trains a copy of the bundle twice on the CPU; further ``--key value`` pairs are given to both. Exit code 1 if the
weights differ in a single bit.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

LEAST_SECONDS = 0.2
"""Between the first sign of a run that trains and its end by force, at least."""


def command(bundle: Path, dataset: Path, settings: list[str]) -> list[str]:
    """The line of the MONAI CLI that starts a run, or goes on with it."""
    config = bundle / "configs" / "train.json"
    return [
        sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config), "--bundle_root", str(bundle),
        "--dataset_dir", str(dataset), "--device", "$torch.device('cpu')", "--resume", "auto", *settings,
    ]  # fmt: skip


def train(line: list[str]) -> None:
    """Run a training to its end."""
    done = subprocess.run(line, check=False, capture_output=True, text=True)  # noqa: S603  (the line above)
    if done.returncode:
        sys.exit(f"the training failed:\n{done.stderr[-2000:]}")


def kill(line: list[str], state: Path, longest: float, chance: random.Random) -> bool:
    """Start a run and kill it at a random moment after it has saved a state; returns whether it was still running."""
    seen = state.stat().st_mtime_ns if state.is_file() else 0
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        while process.poll() is None and not (state.is_file() and state.stat().st_mtime_ns != seen):
            time.sleep(0.02)
        end = time.monotonic() + chance.uniform(LEAST_SECONDS, longest)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        was_running = process.poll() is None
        process.kill()
    return was_running


def weights(bundle: Path) -> list[dict[str, torch.Tensor]]:
    """What a run ended with, and what it published."""
    last, model = (torch.load(bundle / name, weights_only=True) for name in ("runs/fold_0/last.pt", "models/model.pt"))
    return [last["network"], model]


def differing(ours: list[dict[str, torch.Tensor]], theirs: list[dict[str, torch.Tensor]]) -> int:
    """The number of tensors that differ."""
    pairs = zip(ours, theirs, strict=True)
    return sum(not torch.equal(value, b[key]) for a, b in pairs for key, value in a.items())


def compare(bundle: Path, dataset: Path, kills: int, longest: float, seed: int, settings: list[str]) -> tuple[int, int]:
    """Train both; returns how often it was killed, and how many tensors of the weights or the model differ."""
    chance = random.Random(seed)  # noqa: S311  (moments, no secrets)
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder) / name for name in ("alone", "killed")]
        for copy in copies:
            shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("runs", "*.pt", "model.json"))
            (copy / "models").mkdir(exist_ok=True)
        alone, killed = copies
        train(command(alone, dataset, settings))
        line = command(killed, dataset, settings)
        done = sum(kill(line, killed / "runs/fold_0/last.pt", longest, chance) for _ in range(kills))
        train(line)
        return done, differing(*(weights(copy) for copy in copies))


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--longest", type=float, default=5.0, help="seconds a run lives after a state, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args, settings = parser.parse_known_args()
    done, other = compare(args.bundle, args.dataset, args.kills, args.longest, args.seed, settings)
    print(f"killed {done} times of {args.kills}; {other} tensors differ")
    return int(other > 0 or done < args.kills)


if __name__ == "__main__":
    sys.exit(main())
