import jax
import pytest


@pytest.fixture(scope="module")
def as_in_a_study():
    """Studies run in float32 with standard promotion, as users have it; Optax itself does not pass
    strict promotion.

    Set for the whole process: `hopmix verify` and checkpoints work in threads, which a context
    manager does not reach.
    """
    settings = {"jax_enable_x64": False, "jax_numpy_dtype_promotion": "standard"}
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def private_cache(tmp_path, monkeypatch):
    """What `datasets` prepares goes into the folder of the test."""
    import datasets.config  # a second to import, and most tests of the lab load nothing with it

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """An empty folder for a data set."""
    path = tmp_path / "pets"
    path.mkdir()
    return path
