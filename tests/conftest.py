"""Strict numerics, reproducible randomness, and the material beside the repository that some tests
need.
"""

import gc
import itertools
import os
import secrets
import shutil
import tempfile
import threading
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
# Commands that tests give in processes of their own compile as the tests do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
CONTEXTS = threading.local()
MANY = 300
"""How many compiled programs are kept for the next file."""
if jax.__version_info__ < (0, 11):
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    # XLA's older code generator is a third faster; later versions do not have it
    FASTER = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FASTER}"
    make_context = mlir.make_ir_context

    def context_of_the_thread():
        """JAX makes a context for each program: a tenth of the time, and a megabyte that is kept
        with the program. One serves them all, but those made while another is being made: these
        would become a part of it.
        """
        if ir.Context.current is not None:
            return make_context()
        if not hasattr(CONTEXTS, "own"):
            CONTEXTS.own = make_context()
        return CONTEXTS.own

    mlir.make_ir_context = context_of_the_thread
    MANY = 1500

# What takes long to compile is kept for the tests and commands that compile it again, and nothing
# of it afterwards.
CACHE = (
    None if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="hopmix-tests-")
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
LONG = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
os.environ.setdefault(LONG, "0.3")
jax.config.update(LONG.lower(), float(os.environ[LONG]))

# Numbers are drawn from one fixed seed, so that red means that the code changed. Other seeds are
# named by the variable, one or several of them, or drawn by `--seeds`; Hypothesis is then
# unrestrained, and draws from the same seed.
VARIABLE = "HOPMIX_TEST_SEED"
CHECKS = {
    "deadline": None,  # the first example of a test compiles
    "print_blob": True,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
}
hypothesis.settings.register_profile("fixed", max_examples=25, derandomize=True, **CHECKS)
hypothesis.settings.register_profile("drawn", max_examples=100, derandomize=False, **CHECKS)
hypothesis.settings.register_profile("quick", max_examples=3, derandomize=True, **CHECKS)


FINISHED = itertools.count(1)

COMPILED: list[float] = []
"""How long each program took to compile of those that are kept."""


def seeds() -> list[int]:
    return [int(number) for number in os.environ.get(VARIABLE, "0").split(",")]


def pytest_addoption(parser: pytest.Parser):
    parser.addoption(
        "--seeds",
        type=int,
        metavar="N",
        help="run each test that draws numbers for N seeds drawn now",
    )
    only = "run one row of each test that is marked quick"
    parser.addoption("--quick", action="store_true", help=only)


def pytest_configure(config: pytest.Config):
    drawn = config.getoption("--seeds")
    if drawn and not hasattr(
        config, "workerinput"
    ):  # the workers of pytest-xdist inherit the variable
        os.environ[VARIABLE] = ",".join(str(secrets.randbelow(2**31)) for _ in range(drawn))
    config.addinivalue_line("markers", "quick: for `make quick`, which is run after every edit")
    hypothesis.settings.load_profile(profile(config))


def profile(config: pytest.Config) -> str:
    if VARIABLE in os.environ:
        return "drawn"
    if config.getoption("--quick"):
        return "quick"
    return "fixed"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Most of a short run would be spent importing files that take no part in it."""
    if not config.getoption("--quick") or collection_path.suffix != ".py":
        return None
    return "mark.quick" not in collection_path.read_text("utf-8") or None


def one_row_each(items: list[pytest.Item]) -> list[pytest.Item]:
    """One row of each quick test: of the k-th of a file its k-th row, counted round and round.

    So tests of one table try different rows of it.
    """
    files: dict[Path, dict[str, list[pytest.Item]]] = {}
    for item in items:
        if item.get_closest_marker("quick"):
            tests = files.setdefault(item.path, {})
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = []
    for tests in files.values():
        kept += [rows[k % len(rows)] for k, rows in enumerate(tests.values())]
    return kept


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]):
    # All claims are measured for its first row, which takes minutes: begun last, it would keep
    # one core waiting.
    items.sort(key=lambda item: item.path.name != "test_table.py")
    if config.getoption("--quick"):
        kept = one_row_each(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter):
    terminalreporter.write_line(f"Numbers drawn with {VARIABLE}={','.join(map(str, seeds()))}")


def draws(test: pytest.Metafunc | pytest.FixtureRequest) -> bool:
    return "getkey" in test.fixturenames or hypothesis.is_hypothesis_test(test.function)


def pytest_generate_tests(metafunc: pytest.Metafunc):
    """Several seeds are rows of one test, one after the other, so that they share what their module
    compiles.
    """
    if draws(metafunc) and len(seeds()) > 1:
        metafunc.parametrize("run_seed", seeds(), ids=lambda seed: f"seed={seed}", indirect=True)


def pytest_unconfigure():
    if CACHE is not None:
        shutil.rmtree(CACHE, ignore_errors=True)


def name_of(request: pytest.FixtureRequest, seed: int) -> str:
    """The test with its parameters, whether it runs for one seed or for several."""
    return request.node.nodeid.replace(f"[seed={seed}]", "").replace(f"[seed={seed}-", "[")


@pytest.fixture(autouse=True)
def run_seed(request: pytest.FixtureRequest) -> int:
    """The seed that this test draws its numbers from, Hypothesis included."""
    seed = getattr(request, "param", seeds()[0])
    if VARIABLE in os.environ and hypothesis.is_hypothesis_test(request.function):
        hypothesis.seed(seed)(request.function)
    if VARIABLE in os.environ and draws(request):
        again = f"{VARIABLE}={seed} .venv/bin/pytest '{name_of(request, seed)}'"
        request.node.add_report_section("call", "seed", f"Repeat these numbers: {again}")
    return seed


class GetKey:
    """A fresh PRNG key at each call, determined by the seed and the name of the test."""

    def __init__(self, seed: int, test: str):
        self.key = jr.key(zlib.crc32(f"{seed} {test}".encode()))
        self.seed = seed
        self.calls = 0

    def __call__(self) -> jax.Array:
        self.calls += 1
        return jr.fold_in(self.key, self.calls)

    def __repr__(self) -> str:
        return f"<{self.calls} keys drawn with {VARIABLE}={self.seed}>"


@pytest.fixture
def getkey(request: pytest.FixtureRequest, run_seed: int) -> GetKey:
    return GetKey(run_seed, name_of(request, run_seed))


@pytest.fixture
def fixedkey(request: pytest.FixtureRequest, run_seed: int) -> GetKey:
    """Keys of one example that is the same in every run: for what one example shows, and not every
    draw has to.
    """
    return GetKey(0, name_of(request, run_seed))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden tensors and data sets beside the repository; a test that needs it is
    skipped without it.
    """
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(
            "needs the folder ../shared (golden tensors, data sets), which is not beside this clone"
        )
    return folder


def free_compiled_programs():
    """They are kept for ever otherwise, and a long run ends up short of memory and of memory
    maps.
    """
    eqx.clear_caches()
    jax.clear_caches()
    COMPILED.clear()
    vars(CONTEXTS).clear()


def count_programs(event: str, duration_secs: float, **about: str | int):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(duration_secs)


jax.monitoring.register_event_duration_secs_listener(count_programs)


@pytest.fixture(scope="module", autouse=True)
def free_around_a_file(request: pytest.FixtureRequest):
    """Unless there is little to free: tests of the next file may use the same programs.

    A program keeps what was patched when it was compiled, so that files which patch share none.
    """
    patches = "monkeypatch" in request.path.read_text("utf-8").lower()
    if patches:
        free_compiled_programs()
    yield
    if patches or len(COMPILED) > MANY:
        free_compiled_programs()


@pytest.fixture(autouse=True)
def free_after_many_tests():
    """Of one file too, where each of its tests runs for a hundred seeds."""
    yield
    if next(FINISHED) % 200 == 0 and len(COMPILED) > MANY:
        free_compiled_programs()


def pytest_collection_finish():
    """What was imported stays: looking through it again and again for garbage takes a twentieth of
    the time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
