"""The Hub is asked once, and out of reach it is not asked again."""

import time

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from hopmix.lab.checkpoints.formats.safetensors import open_hub
from hopmix.lab.errors import UsageError
from hopmix.lab.runtime import hub


def out_of_reach():
    raise OSError("no network")


def test_nothing_is_asked_of_a_hub_that_does_not_answer():
    before = constants.HF_HUB_OFFLINE
    with hub.asked_once(out_of_reach) as answers:
        assert not answers
        assert constants.HF_HUB_OFFLINE
    assert before == constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_asked(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def unknown():
        raise HfHubHTTPError.__new__(HfHubHTTPError)

    for ask in (lambda: None, unknown):
        with hub.asked_once(ask) as answers:
            assert answers
            assert not constants.HF_HUB_OFFLINE


def test_an_error_in_the_block_leaves_the_setting_as_it_was():
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(ValueError, match="within"), hub.asked_once(out_of_reach):
        raise ValueError("within")
    assert before == constants.HF_HUB_OFFLINE


def test_a_model_out_of_reach_is_told_without_trying_again(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(hub, "_answers", lambda ask: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(
        UsageError, match=r"hub:owner/model isn't in the local cache and the Hub can't be reached"
    ):
        open_hub("owner/model")
    assert slept == []
    assert caplog.text == ""
