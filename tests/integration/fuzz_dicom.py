"""Damage one file of a small series at random and read the folder, many times; print what came of it as JSON.

python fuzz_dicom.py SYNTHETIC_PY COUNT SEED [FOLDERS OF SERIES]; run by test_dicom.py in a process of its own, since a
decoder may crash.
"""

import importlib.util
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from unet_bundle.errors import InputError
from unet_bundle.io.dicom import DicomSeriesReader

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless)
HEADER_BYTES = 1200


def damaged(contents: bytes, generator: np.random.Generator) -> bytes:
    """Cut the end off, or change some bytes, every other time in the header."""
    if generator.random() < 0.3:
        return contents[: generator.integers(len(contents))]
    changed = bytearray(contents)
    reach = HEADER_BYTES if generator.random() < 0.5 else len(contents)
    for place in generator.integers(0, min(reach, len(contents)), generator.integers(1, 8)):
        changed[place] ^= int(generator.integers(1, 256))
    return bytes(changed)


def main() -> None:
    synthetic_path, count, seed, *real = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("synthetic_dicom", synthetic_path)
    synthetic = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = synthetic
    spec.loader.exec_module(synthetic)
    generator = np.random.default_rng(int(seed))
    outcomes, wrong, slowest = Counter(), [], 0.0
    with tempfile.TemporaryDirectory() as root:
        bases = []
        for number, syntax in enumerate(SYNTAXES):
            folder = synthetic.write_series(Path(root) / str(number), shape=(24, 20, 4), syntax=syntax).folder
            bases.append(folder)
        for number, source in enumerate(map(Path, real)):  # files of any name: given one that says DICOM
            folder = Path(root) / f"real{number}"
            folder.mkdir()
            for index, path in enumerate(sorted(source.iterdir())[:3]):
                (folder / f"{index}.dcm").write_bytes(path.read_bytes())
            bases.append(folder)
        truths = [DicomSeriesReader().get_data(DicomSeriesReader().read(base))[1] for base in bases]
        for number in range(int(count)):
            kind = number % len(bases)
            paths = sorted(bases[kind].iterdir())
            path = paths[generator.integers(len(paths))]
            contents = path.read_bytes()
            path.write_bytes(damaged(contents, generator))
            start = time.monotonic()
            try:
                reader = DicomSeriesReader()
                array, meta = reader.get_data(reader.read(bases[kind]))
            except InputError as error:
                outcomes["refused"] += 1
                if "\n" in str(error) or any(planted in str(error) for planted in synthetic.PLANTED):
                    wrong.append(f"{number}: {error}")
            except BaseException as error:  # noqa: BLE001 - that there is none is what is tested
                wrong.append(f"{number}: {type(error).__name__}: {error}")
            else:
                outcomes["read"] += 1
                truth = truths[kind]
                same = np.allclose(meta["affine"], truth["affine"], atol=0.1)
                if not same or tuple(array.shape) != tuple(truth["spatial_shape"]):
                    wrong.append(f"{number}: {path.name} changed the geometry: {array.shape} {meta['affine'].tolist()}")
            slowest = max(slowest, time.monotonic() - start)
            path.write_bytes(contents)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    json.dump({"outcomes": outcomes, "wrong": wrong, "slowest_s": slowest, "memory_bytes": memory}, sys.stdout)


if __name__ == "__main__":
    main()
