"""What ends the server ends its trainings, too."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_tasks_with_server(
    processes: Mapping[str, Mapping[str, subprocess.Popen[Any]]], executors: Mapping[str, ThreadPoolExecutor]
) -> None:
    """When the server is asked to end, ask the processes that it started first, and start none that wait.

    MONAI Label's server waits for them, that is for hours of training, and who loses patience with it leaves them
    behind. To be called in the main thread, when the server has its own handlers.

    Args:
        processes: that run now, by kind of task and its id.
        executors: whose threads start and watch them, by kind.
    """
    for number in SIGNALS:
        former = signal.getsignal(number)

        def end(signum: int, frame: Any, former: Any = former) -> None:
            for executor in executors.values():
                executor.shutdown(wait=False, cancel_futures=True)
            for running in [process for kind in [*processes.values()] for process in [*kind.values()]]:
                running.terminate()
            if callable(former):
                former(signum, frame)

        signal.signal(number, end)
