"""Strict numerics, reproducible randomness, and the material beside the repository that some tests need."""

import os
import secrets
import shutil
import tempfile
import zlib
from pathlib import Path

import equinox as eqx
import hypothesis
import jax
import jax.random as jr
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Nearly all programs here run once on small arrays: compiling them is most of the suite's time.
jax.config.update("jax_disable_most_optimizations", True)
if jax.__version_info__ < (0, 11):  # XLA's older code generator is a third faster; later versions do not have it
    FASTER = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FASTER}"

# What takes a second to compile is kept for the tests and commands that compile it again, and nothing of it afterwards.
CACHE = None if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="hopmix-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])

IN_CI = bool(os.environ.get("CI"))

hypothesis.settings.register_profile(
    "hopmix",
    deadline=None,  # the first example of a test compiles
    max_examples=25,
    derandomize=IN_CI,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("hopmix")

# Written to the environment so that the workers of pytest-xdist, which inherit it, agree on the seed.
SEED = int(os.environ.setdefault("HOPMIX_TEST_SEED", "0" if IN_CI else str(secrets.randbelow(2**31))))


def pytest_report_header() -> str:
    return f"hopmix: HOPMIX_TEST_SEED={SEED}"


def pytest_unconfigure():
    if CACHE is not None:
        shutil.rmtree(CACHE, ignore_errors=True)


class GetKey:
    """A fresh PRNG key at each call, determined by the seed of the run and the name of the test."""

    def __init__(self, test: str):
        self.key = jr.key(zlib.crc32(f"{SEED} {test}".encode()))
        self.calls = 0

    def __call__(self) -> jax.Array:
        self.calls += 1
        return jr.fold_in(self.key, self.calls)

    def __repr__(self) -> str:
        return f"<{self.calls} keys drawn with HOPMIX_TEST_SEED={SEED}>"


@pytest.fixture
def getkey(request: pytest.FixtureRequest) -> GetKey:
    request.node.add_report_section("call", "seed", f"Repeat these numbers with HOPMIX_TEST_SEED={SEED}")
    return GetKey(request.node.nodeid)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden tensors and data sets beside the repository; a test that needs it is skipped without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared (golden tensors, data sets), which is not beside this clone")
    return folder


@pytest.fixture(scope="module", autouse=True)
def free_compiled_programs():
    """Compiled programs are kept for ever otherwise, and a long run ends up short of memory and of memory maps."""
    yield
    eqx.clear_caches()
    jax.clear_caches()
