"""Runs of earlier formats: read under the names of today, and not gone on with."""

import numpy as np
import pytest
import xarray as xr
from lab.tiny import tiny_config

from hopmix.lab import store
from hopmix.lab.errors import UsageError
from hopmix.lab.store.earlier import results_with_names_of_today, with_names_of_today


def earlier() -> xr.Dataset:
    names = ["free", "broken λ=0", "broken λ=0.1"]
    coords = {
        "arm": names,
        "paper_name": ("arm", ["ParaMixer", "AsymMixer λ=0", "AsymMixer λ=0.1"]),
        "kind": ("arm", ["free", "broken", "broken"]),
        "penalty": ("arm", [0.0, 0.0, 0.1]),
    }
    values = {"penalty_term": ("arm", [0.0, 0.0, 0.7]), "cosine": ("arm", [0.1, 0.2, 0.3])}
    return xr.Dataset(values, coords)


def test_what_was_called_penalty_is_the_strength_and_the_term_the_penalty():
    today = with_names_of_today(earlier())
    np.testing.assert_array_equal(today.strength, [np.nan, 0.0, 0.1])
    np.testing.assert_array_equal(today.penalty, [0.0, 0.0, 0.7])
    np.testing.assert_array_equal(today.cosine, earlier().cosine)
    assert list(today.title.values) == list(earlier().paper_name.values)
    assert {"paper_name", "penalty_term"} & set(today.variables) == set()
    one = with_names_of_today(earlier().cosine)
    np.testing.assert_array_equal(one.strength, today.strength)


def test_what_is_of_today_stays_as_it_is():
    today = with_names_of_today(earlier())
    assert with_names_of_today(today) is today


def test_results():
    old = {"paper_name": "ParaMixer", "n": 2, "name": "free", "kind": "free", "penalty": 0.0}
    broken = old | {"name": "broken λ=0.1", "kind": "broken", "penalty": 0.1}
    first, second = results_with_names_of_today({"arms": [old, broken], "step": 3})["arms"]
    assert first == {"title": "ParaMixer", "n": 2, "name": "free", "kind": "free", "strength": None}
    assert second["strength"] == 0.1
    assert results_with_names_of_today({"arms": [first]})["arms"] == [first]


@pytest.mark.parametrize("found", [None, 1, 2])
def test_a_study_of_an_earlier_format_is_not_gone_on_with(tmp_path, found):
    values = {"config": tiny_config().to_json()} | ({} if found is None else {"format": found})
    with pytest.raises(
        UsageError,
        match=r"begun by an earlier version .*resume it with that version, or start anew",
    ):
        store.Record(values, None).require_format_of_today(tmp_path)
    store.Record(values | {"format": store.FORMAT}, None).require_format_of_today(tmp_path)
