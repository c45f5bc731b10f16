"""Settings and fixtures for every test.  Imports no mlx: `graph/` is tested without it."""

from __future__ import annotations

import gc
import os
from zlib import crc32

import pytest
from hypothesis import HealthCheck, Phase, settings

# The same examples on every run, few in `make test` and more of them in `make sweep` (`thorough`);
# HYPOTHESIS_PROFILE=explore looks for new ones, and `unshrunk` is content with the first that
# fails.  No deadline: a slow machine is not a bug.
_COMMON = dict(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("mlxgraph", derandomize=True, max_examples=20, **_COMMON)
settings.register_profile("thorough", derandomize=True, max_examples=100, **_COMMON)
settings.register_profile("few", derandomize=True, max_examples=5, **_COMMON)
_FIRST = (Phase.explicit, Phase.generate)
settings.register_profile("unshrunk", derandomize=True, max_examples=50, phases=_FIRST, **_COMMON)
settings.register_profile("explore", max_examples=500, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "mlxgraph"))
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("MLXGRAPH_CHECK", "1")  # every recording of every test is verified


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`thin(n)`: of a test's cases about one of n, whatever they are, is for `make test`, and the
    others are slow.  The same ones each time, and at least one."""
    first: set[str] = set()
    for item in items:
        thin, name = item.get_closest_marker("thin"), item.nodeid.partition("[")[0]
        if thin is None:
            continue
        if name in first and crc32(item.nodeid.encode()) % thin.args[0]:
            item.add_marker(pytest.mark.slow)
        first.add(name)


def pytest_collection_finish() -> None:
    """What the imports and the collected tests made stays to the end: the garbage collector, which
    some tests call, need not walk over it again each time (a third of a second, of thousands)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # nor walk often over what tests hold from one to the next


@pytest.fixture(scope="session", params=["tied", "untied"])
def llama(request):
    """Random Llamas with grouped queries, with tied and with untied heads."""
    return _model("make_llama", request.param == "tied")


@pytest.fixture(scope="session")
def tied():
    """One random Llama, for what does not depend on the head."""
    return _model("make_llama", True)


@pytest.fixture
def fresh():
    """A Llama that the test may change."""
    return _model("make_llama", False)


@pytest.fixture
def chain():
    """A chain of linear layers on float inputs of width 6."""
    return _model("Chain")


@pytest.fixture
def counted():
    """A chain whose layers count how often Python calls them."""
    return _model("CountedChain")


@pytest.fixture
def tokens():
    """Token ids, shape (2, 6)."""
    import mlx.core as mx

    return mx.array([[1, 7, 3, 9, 4, 2], [5, 11, 0, 8, 6, 13]])


@pytest.fixture
def x():
    """A float input, shape (2, 4, 6)."""
    import mlx.core as mx

    value = mx.arange(48, dtype=mx.float32).reshape(2, 4, 6) / 24 - 1
    mx.eval(value)  # a lazy array belongs to the thread that made it
    return value


def _model(maker: str, *args):
    """A random model, by the name of what makes it.  Only who asks for one imports mlx."""
    import mlx.core as mx

    import mlxgraph as mg
    from tests import models

    mx.random.seed(3)
    module = getattr(models, maker)(*args)
    mx.eval(module.parameters())
    return mg.InterpretableModel(module)
