import pytest
import torch

from unet_bundle.errors import ConfigError
from unet_bundle.training import local_device, start_processes
from unet_bundle.training.distributed import is_main_process, wait_for_others


def test_one_process_writes_and_waits_for_nobody():
    assert is_main_process()
    wait_for_others()


def test_the_multi_gpu_configs_without_torchrun_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"^The multi_gpu configs need several processes: start them by `torchrun "):
        start_processes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds on a machine without a GPU")
def test_without_a_gpu_every_process_has_the_processor():
    assert local_device() == torch.device("cpu")
