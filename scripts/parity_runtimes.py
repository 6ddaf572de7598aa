"""Export a bundle to every runtime that is here, compare with PyTorch on a scan, time it: the table of docs/export.md.

python scripts/parity_runtimes.py bundle DATASET/imagesTr/hippocampus_001.nii.gz --threads 1
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from unet_bundle.errors import UnetBundleError
from unet_bundle.export import DEFAULT_FILES, FORMATS, Source, compare, write
from unet_bundle.inferers.exported import Exported
from unet_bundle.predictor import Predictor

HEAD = ("runtime", "size in MB", "largest logit difference", "equal labels", "seconds a scan", "seconds to load")


def seconds_of(predictor: Predictor, scan: Path, repeats: int) -> tuple[float, float]:
    """Seconds of a scan (the least of some), and by how much the first took longer."""
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        predictor(scan)
        found.append(time.perf_counter() - start)
    return min(found[1:]), max(found[0] - min(found[1:]), 0)


def row(to: str, predictor: Predictor, bundle: Path, scan: Path, repeats: int) -> tuple[str, ...]:
    """A line of the table."""
    inferer: Any = predictor.inferer
    config = json.loads((bundle / "configs" / "inference.json").read_text(encoding="utf-8"))
    window = tuple(inferer.settings.roi_size)
    source = Source(predictor.network, config["network_def"]["in_channels"], window)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(DEFAULT_FILES[to]).name)
        try:
            write(to, source, path)
        except UnetBundleError as error:
            return (to, "-", "-", "-", f"not here: {error}", "-")
        image = predictor.prepared(scan)["image"][None].to(predictor.device)
        parity = compare(inferer, image, predictor.network, Exported(path))
        size = sum(each.stat().st_size for each in Path(folder).iterdir()) / 1e6
        other = Predictor(bundle, device=predictor.device, overrides={"runtime": str(path)})
        each, more = seconds_of(other, scan, repeats)
    return (
        to, f"{size:.1f}", f"{parity.difference:.2g}", f"{100 * parity.equal:.4f} %", f"{each:.2f}", f"{more:.1f}"
    )  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    predictor = Predictor(args.bundle, device=args.device)
    each, _ = seconds_of(predictor, args.scan, args.repeats)
    size = (args.bundle / "models" / "model.pt").stat().st_size / 1e6
    rows = [HEAD, ("---",) * len(HEAD), ("torch", f"{size:.1f}", "", "", f"{each:.2f}", "")]
    for to in FORMATS:
        rows.append(row(to, predictor, args.bundle, args.scan, args.repeats))
        print(f"{to}: done", flush=True)
    print("\n".join("| " + " | ".join(cells) + " |" for cells in rows))


if __name__ == "__main__":
    main()
