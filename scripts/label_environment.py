"""Make the environment that a MONAI Label server lives in, beside ours: it needs numpy 1 and pydicom 2.

    python3.11 scripts/label_environment.py FOLDER

What is there already and was made of the same versions is left as it is. `make label-env` runs this.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints-label.txt"
PYTHONS = ((3, 11), (3, 12))
STEPS = (
    ["torch"],  # first: packages below build against it
    ["monailabel", "monai"],
    # With these MONAI Label 0.8.5 runs; it names no upper bounds. dcmqi: the program that its DICOM SEG is made by.
    ["pydicom<3", "dicomweb-client<0.61", "pynetdicom<3", "dcmqi"],
)
DICOM = ["pydicom", "highdicom", "python-gdcm"]
"""What our own reader and SEG writer need, in a folder that only their process sees: MONAI Label needs pydicom 2."""
STAMP = "label-environment.txt"
HOOK = "torchvision_without_cuda"

HOOK_CODE = '''\
"""Let a torchvision that was built for CUDA be imported where there is no CUDA.

Its compiled operators cannot be loaded there, and the import ends with "operator torchvision::nms does not exist":
declared without code they do for all who never call them.
"""

import importlib.machinery
import pathlib
import sys

KEPT = []


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(Finder)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin:
            declare(pathlib.Path(spec.origin).parent)
        return spec


def declare(folder):
    import torch

    try:
        for file in (*folder.glob("_C*.so"), *folder.glob("_C*.pyd")):
            torch.ops.load_library(str(file))
            return
    except (OSError, RuntimeError):
        pass
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    KEPT.append(library)


sys.meta_path.insert(0, Finder)
'''


def main() -> int:
    """Make or leave the environment; 0 if it is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of the environment; it is made anew if it is of other versions")
    parser.add_argument("--constraints", type=Path, default=CONSTRAINTS, help="versions to install")
    args = parser.parse_args()
    if sys.version_info[:2] not in PYTHONS:
        say("the versions of constraints-label.txt need Python 3.11 or 3.12; name one: make label-env PYTHON=...")
        return 1
    folder, python = args.folder, args.folder / "bin" / "python"
    wanted = hashlib.sha256(args.constraints.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    stamp = folder / STAMP
    if stamp.is_file() and stamp.read_text() == wanted:
        say(f"{folder} is there")
        return 0
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        say(f"{folder} holds something else: name another folder")
        return 1
    say(f"making {folder}: some minutes, about 6 GB")
    stamp.unlink(missing_ok=True)
    venv.create(folder, clear=True, with_pip=True)
    # SAM 2, which MONAI Label names and we do not use, would compile for CUDA.
    settings = {**os.environ, "PIP_CONSTRAINT": str(args.constraints.resolve()), "SAM2_BUILD_CUDA": "0"}
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for packages in (*STEPS, ["--editable", str(ROOT)]):
        subprocess.run([*pip, *packages], check=True, env=settings)  # noqa: S603
    aside = ["--target", str(folder / "dicom3"), "--no-deps", "--constraint", str(ROOT / "constraints.txt")]
    own = {key: value for key, value in settings.items() if key != "PIP_CONSTRAINT"}
    subprocess.run([*pip, *aside, *DICOM], check=True, env=own)  # noqa: S603
    site = subprocess.run(  # noqa: S603
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    Path(site, f"{HOOK}.py").write_text(HOOK_CODE)
    Path(site, f"{HOOK}.pth").write_text(f"import {HOOK}\n")
    subprocess.run([python, "-m", "pip", "check"], check=True)  # noqa: S603
    subprocess.run([python, "-c", "import torchvision, monailabel.interfaces.app, unet_bundle.io"], check=True)  # noqa: S603
    stamp.write_text(wanted)
    return 0


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        say(f"failed: {' '.join(map(str, error.cmd[:6]))} ...")
        sys.exit(1)
