"""A run that is ended while it fetches a study: nothing of the patient stays on the disk."""

import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("pydicom", minversion="3.0")
pytestmark = pytest.mark.integration

STUDY = "1.2.826.0.1.3680043.8.498.1"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_fetched_files_are_removed(
    number: signal.Signals, status: int, cli: Any, trained: Path, dicomweb_server: Any, synthetic: ModuleType,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    dicomweb_server.hold(synthetic.write_series(tmp_path / "sent", modality="MR", series=1).files)
    shutil.rmtree(tmp_path / "sent")
    dicomweb_server.pause = threading.Event()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    line = ["predict", trained, tmp_path / "out", "--dicomweb", dicomweb_server.url, "--study", STUDY]
    with cli.start(sys.executable, "-m", "unet_bundle.cli", *line) as process:
        for _ in range(600):
            if list(temporary.rglob("*.dcm")) or process.poll() is not None:
                break
            time.sleep(0.1)
        assert [path.name for path in temporary.rglob("*.dcm")] == ["000001.dcm"], "it is fetching"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == status, out + err
    assert "Traceback" not in out + err
    assert cli.files(tmp_path) == [], "neither the scan nor a result"
