import signal
import subprocess
import sys

import pytest

SERVER = """
import signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor

from unet_bundle.labeling.ending import end_tasks_with_server

processes, executors = {"train": {}}, {"train": ThreadPoolExecutor(1)}

def train(number):
    line = [sys.executable, "-c", "import time; print('trains', flush=True); time.sleep(600)"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        processes["train"][number] = process
        print(process.stdout.readline().strip(), number, process.pid, flush=True)
        process.wait()

asked = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: asked.append(1))
end_tasks_with_server(processes, executors)
for number in (1, 2):
    executors["train"].submit(train, number)
while not asked:
    time.sleep(0.05)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a signal ends a process there at once")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_ended_leaves_no_training_and_starts_none_that_waits(number: signal.Signals):
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("trains 1")
        server.send_signal(number)
        try:
            rest, _ = server.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            pytest.fail("it waits for its training")
    assert server.returncode == 0
    assert "trains 2" not in rest
