"""C18: what rounding does to a descent, measured in float32 against float64, and rises that are
none of it.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal

from hopmix._numerics.rounding import rounding_unit
from hopmix.claims import c18_rounding as c18

UNIT = rounding_unit(jnp.float32)


def test_the_claim(getkey):
    found = c18.CLAIM.measure(getkey(), 5)
    assert found.passed, found
    assert found.examples == 5
    assert found.error > 0  # float32 does round


def test_the_measurement_fails_where_a_true_rise_is_hidden(getkey, monkeypatch):
    monkeypatch.setattr(c18, "rounding_unit", lambda dtype: 0.01 * UNIT)
    assert c18.hidden_rise(getkey()) == 2


def test_the_measurement_fails_where_nothing_is_allowed(monkeypatch):
    """A thousandth of what is allowed does not cover what float32 does."""
    allowed = c18.allowed_rise
    monkeypatch.setattr(c18, "allowed_rise", lambda *args: 1e-4 * allowed(*args))
    steps = c18._at_all_scales(c18.overshooting(-0.7), jnp.linspace(0.3, 1.1, 5))
    assert np.max(c18.used(steps)) > 1


@pytest.mark.parametrize("excess, rises", [(3.5, False), (4.5, True)])
def test_the_allowance_turns_where_the_page_says(excess, rises, getkey):
    """((1 + delta)^2 - 1)/2 is above 32 eps (3/2 + 5/2) for delta > 4 * 32 eps, to first order."""
    x = 1 + jnp.abs(normal(getkey(), (5,)))
    steps = c18._at_all_scales(c18.overshooting(excess * UNIT), x)
    assert np.all((steps.computed > steps.allowed) == rises)
    np.testing.assert_allclose(steps.exact / steps.allowed, excess / 4, rtol=1e-2)
