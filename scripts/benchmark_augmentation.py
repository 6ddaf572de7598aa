"""Elastic deformation side by side with MONAI, TorchIO, elasticdeform and batchgeneratorsv2.

Every library deforms the same image (linear) and label map (nearest), in a process of its own, with 1 and with 2
threads; rounds of all of them alternate, so that a slow spell of the machine meets all alike. Ours includes the check
that nothing folds, which the others lack. Peers live in environments of their own, made on the first run:

    python scripts/benchmark_augmentation.py --json ratios.json
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 3
REPETITIONS = 5
OURS = "unet-bundle"
PEERS = {
    OURS: None,
    "MONAI": None,
    "TorchIO": "torch",
    "batchgeneratorsv2": "torch",
    "elasticdeform": "numpy1",
}
ENVIRONMENTS = {
    "torch": ["torch==2.13.0", "torchio==1.2.1", "batchgeneratorsv2==0.3.6"],
    "numpy1": ["numpy<2", "scipy", "elasticdeform==0.5.1"],
}
CASES = {"elastic_3d": (128, 128, 128), "elastic_2d": (512, 512), "patch": (256, 256, 200)}
PATCH = (96, 96, 96)
SUPPORTED = {"patch": (OURS, "MONAI", "batchgeneratorsv2")}
SD, CONTROL_SPACING = 4.0, 32.0
"""Displacement of a control point and distance of control points in voxels: the 3D U-Net's."""

Deform = Callable[[], Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the ratios to this file")
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "unet-bundle-peers")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--measure", nargs=3, metavar=("PEER", "CASE", "THREADS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        peer, case, threads = args.measure
        sys.stdout.write(json.dumps(measure(peer, case, int(threads))) + "\n")
        return
    times, memory = run_all(args.peers, args.rounds)
    print_table(times, memory)
    ratios = compare(times)
    sys.stdout.write("\n" + "\n".join(f"{name:34} {ratio:6.2f}" for name, ratio in ratios.items()) + "\n")
    if args.json:
        args.json.write_text(json.dumps(ratios, indent=2) + "\n", encoding="utf-8")


def run_all(peers: Path, rounds: int) -> tuple[dict[tuple[str, str, int], float], dict[tuple[str, str, int], float]]:
    """Median seconds, and peak MB above the inputs and outputs, by (case, peer, threads)."""
    pythons = {peer: environment(peers, name) if name else sys.executable for peer, name in PEERS.items()}
    seconds: dict[tuple[str, str, int], list[float]] = {}
    memory: dict[tuple[str, str, int], float] = {}
    for _ in range(rounds):
        for case in CASES:
            for threads in (1, 2):
                for peer in SUPPORTED.get(case, tuple(PEERS)):
                    got = in_process(pythons[peer], peer, case, threads)
                    key = (case, peer, threads)
                    seconds.setdefault(key, []).extend(got["seconds"])
                    memory[key] = min(memory.get(key, float("inf")), got["peak_mb"])
    return {key: statistics.median(values) for key, values in seconds.items()}, memory


def in_process(python: str, peer: str, case: str, threads: int) -> dict[str, Any]:
    """What one process measured."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    done = subprocess.run(  # noqa: S603  (our own script)
        [python, "-W", "ignore", __file__, "--measure", peer, case, str(threads)],
        capture_output=True, text=True, check=False, env={**os.environ, **limits},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{peer} failed on {case}:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def environment(folder: Path, name: str) -> str:
    """Python of an environment with peers; made if it is not there."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        sys.stderr.write(f"making an environment with {', '.join(ENVIRONMENTS[name])}\n")
        venv.create(folder / name, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *ENVIRONMENTS[name]], check=True)  # noqa: S603
    return str(python)


def measure(peer: str, case: str, threads: int) -> dict[str, Any]:
    """Seconds of each repetition and peak memory of a deformation, in this process."""
    import numpy as np

    random = np.random.RandomState(0)
    image = random.rand(*CASES[case]).astype(np.float32)
    label = (random.rand(*CASES[case]) > 0.7).astype(np.uint8)
    if peer != "elasticdeform":
        import torch

        torch.set_num_threads(threads)
    # What libraries load and keep at their first call is no memory of the deformation.
    corner = (slice(160 if case == "patch" else 32),) * image.ndim
    MAKERS[peer](case, image[corner].copy(), label[corner].copy())()
    deform = MAKERS[peer](case, image, label)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: the peak begins anew
    before = process_memory("VmRSS")
    deform()
    result = 5 * (np.prod(PATCH) if case == "patch" else image.size)
    peak = max(process_memory("VmHWM") - before - result, 0) / 1e6
    seconds = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        deform()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "peak_mb": round(float(peak), 1)}


def process_memory(name: str) -> int:
    """Bytes of this process' memory, ``"VmRSS"`` now or ``"VmHWM"`` at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def ours(case: str, image: Any, label: Any) -> Deform:
    """Our transforms, the check of the Jacobian determinant included."""
    import torch

    from unet_bundle.transforms import RandElasticDeformd, RandSpatiald

    scan = {"image": torch.from_numpy(image)[None], "label": torch.from_numpy(label)[None]}
    modes = ["bilinear", "nearest"]
    transform: Any
    if case == "patch":
        transform = RandSpatiald(
            ["image", "label"], PATCH, mode=modes, elastic_sd=SD, elastic_spacing=CONTROL_SPACING, elastic_prob=1.0,
            rotate_range=[30.0] * 3, rotate_prob=1.0, zoom_range=[0.7, 1.4], zoom_prob=1.0, flip_axes=[0, 1, 2],
        )  # fmt: skip
    else:
        transform = RandElasticDeformd(["image", "label"], SD, control_spacing=CONTROL_SPACING, mode=modes)
    transform.set_random_state(0)
    return lambda: transform(scan)


def monai(case: str, image: Any, label: Any) -> Deform:
    """MONAI's elastic transforms; for the patch a crop with a margin first, as its users do."""
    import torch
    from monai.transforms import Compose, Rand2DElasticd, Rand3DElasticd, RandFlipd, RandSpatialCropd

    both = ["image", "label"]
    scan = {"image": torch.from_numpy(image)[None], "label": torch.from_numpy(label)[None]}
    modes = ["bilinear", "nearest"]
    transform: Any
    if case == "elastic_2d":
        transform = Rand2DElasticd(
            both, spacing=(32, 32), magnitude_range=(4, 4), prob=1, mode=modes, padding_mode="zeros"
        )
    elif case == "elastic_3d":
        transform = Rand3DElasticd(
            both, sigma_range=(8, 8), magnitude_range=(200, 200), prob=1, mode=modes, padding_mode="zeros"
        )
    else:
        affine = {"rotate_range": [0.52] * 3, "scale_range": [0.3] * 3}
        transform = Compose(
            [
                RandSpatialCropd(both, roi_size=[144] * 3, random_size=False),
                Rand3DElasticd(
                    both, sigma_range=(8, 8), magnitude_range=(200, 200), prob=1, spatial_size=PATCH, mode=modes,
                    padding_mode="zeros", **affine,
                ),
                *[RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)],
            ]
        )  # fmt: skip
    transform.set_random_state(0)
    return lambda: transform(scan)


def torchio(case: str, image: Any, label: Any) -> Deform:
    """TorchIO: control points as far apart as ours."""
    import torch
    import torchio as tio

    del case
    planes = image.ndim == 2
    volume = [torch.from_numpy(v[..., None] if planes else v)[None] for v in (image, label)]
    subject = tio.Subject(image=tio.ScalarImage(tensor=volume[0]), label=tio.LabelMap(tensor=volume[1]))
    points = [max(round(edge / CONTROL_SPACING) + 3, 5) for edge in image.shape] + ([5] if planes else [])
    reach = (SD, SD, 0) if planes else SD
    transform = tio.RandomElasticDeformation(num_control_points=points, max_displacement=reach)
    return lambda: transform(subject)


def elasticdeform(case: str, image: Any, label: Any) -> Deform:
    """elasticdeform, linear and nearest as ours."""
    import elasticdeform as library

    del case
    points = [round(edge / CONTROL_SPACING) + 1 for edge in image.shape]
    return lambda: library.deform_random_grid([image, label], sigma=SD, points=points, order=[1, 0], prefilter=False)


def batchgeneratorsv2(case: str, image: Any, label: Any) -> Deform:
    """nnU-Net's SpatialTransform."""
    import torch
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    size = PATCH if case == "patch" else image.shape
    extra: dict[str, Any] = {"p_rotation": 1, "rotation": (-0.52, 0.52), "p_scaling": 1, "scaling": (0.7, 1.4)}
    transform = SpatialTransform(
        size, [edge // 2 for edge in size], random_crop=case == "patch", p_elastic_deform=1,
        elastic_deform_scale=(0.125, 0.125), elastic_deform_magnitude=(4, 4), mode_seg="nearest",
        **(extra if case == "patch" else {}),
    )  # fmt: skip
    scan = {"image": torch.from_numpy(image)[None], "segmentation": torch.from_numpy(label)[None]}
    return lambda: transform(**scan)


MAKERS = {
    OURS: ours,
    "MONAI": monai,
    "TorchIO": torchio,
    "elasticdeform": elasticdeform,
    "batchgeneratorsv2": batchgeneratorsv2,
}


def compare(times: dict[tuple[str, str, int], float]) -> dict[str, float]:
    """How many times faster ours is."""
    ratios = {}
    for threads in (1, 2):
        for case, name in (("elastic_3d", f"elastic_3d_{threads}t"), ("elastic_2d", f"elastic_2d_{threads}t")):
            own = times[case, OURS, threads]
            others = {peer: times[case, peer, threads] for peer in PEERS if peer != OURS}
            ratios[f"{name}_vs_monai"] = others["MONAI"] / own
            ratios[f"{name}_vs_best"] = min(seconds for peer, seconds in others.items() if peer != "MONAI") / own
        for peer in ("MONAI", "batchgeneratorsv2"):
            ratios[f"patch_{threads}t_vs_{peer.lower()}"] = (
                times["patch", peer, threads] / times["patch", OURS, threads]
            )
    for name in ("elastic_2d_vs_monai", "elastic_2d_vs_best", "patch_vs_monai", "patch_vs_batchgeneratorsv2"):
        kind, _, peer = name.partition("_vs_")
        ratios[name] = min(ratios[f"{kind}_{threads}t_vs_{peer}"] for threads in (1, 2))
    return {name: round(ratio, 3) for name, ratio in ratios.items()}


def print_table(times: dict[tuple[str, str, int], float], memory: dict[tuple[str, str, int], float]) -> None:
    """One line a library, in milliseconds."""
    lines = [f"{'':12}{'':20}{'1 thread':>12}{'2 threads':>12}{'peak memory':>14}"]
    for case in CASES:
        for peer in SUPPORTED.get(case, tuple(PEERS)):
            cells = "".join(f"{times[case, peer, threads] * 1e3:9.1f} ms" for threads in (1, 2))
            lines.append(f"{case:12}{peer:20}{cells}{memory[case, peer, 1]:11.1f} MB")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
