"""Seconds are counted to one stage each, thread by thread."""

import json
import logging
import threading
import time

import pytest

from unet_bundle import stages


def test_what_a_stage_within_takes_counts_to_that_alone(caplog: pytest.LogCaptureFixture) -> None:
    stages.begin()
    with stages.stage("preprocess"):
        time.sleep(0.02)
        with stages.stage("read"):
            time.sleep(0.05)
    stages.add("network", 1.5)
    with caplog.at_level(logging.INFO):
        stages.log()
    found = json.loads(caplog.messages[0].partition(": ")[2])
    assert list(found) == ["read", "preprocess", "network"]
    assert 0.05 <= found["read"] < 0.1
    assert 0.02 <= found["preprocess"] < 0.05
    assert found["network"] == 1.5


def test_a_scan_that_somebody_follows_is_not_logged_by_others(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        with stages.scan():
            stages.add("network", 1.0)
            stages.log_if_alone()
            assert not caplog.messages
            stages.add("write", 2.0)
        assert caplog.messages == ['seconds a stage: {"network": 1.0, "write": 2.0}']
        stages.add("network", 3.0)
        stages.log_if_alone()
        stages.add("network", 4.0)
        stages.log_if_alone()
    assert caplog.messages[1:] == ['seconds a stage: {"network": 3.0}', 'seconds a stage: {"network": 4.0}']


def test_a_scan_that_fails_is_not_logged_and_no_longer_followed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        with pytest.raises(ValueError, match="no scan"), stages.scan():
            raise ValueError("no scan")
        assert not caplog.messages
        stages.log_if_alone()
    assert caplog.messages == ["seconds a stage: {}"]


def test_a_stage_that_fails_counts_and_a_new_scan_begins_at_nothing() -> None:
    stages.begin()
    with pytest.raises(ValueError, match="no scan"), stages.stage("read"):
        raise ValueError("no scan")
    assert stages.seconds("read") > 0
    stages.begin()
    assert stages.seconds("read") == 0


def test_threads_have_times_of_their_own() -> None:
    stages.begin()
    other = threading.Thread(target=stages.add, args=("network", 2.0))
    other.start()
    other.join()
    assert stages.seconds("network") == 0
