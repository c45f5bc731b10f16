"""Arrays, functions and classes of MLX are pickled inside a block as they are outside of it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import traceback

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlxgraph.errors import NotSavedError, PicklingError
from tests import models

ARRAYS = {
    "float32": mx.arange(6.0).reshape(2, 3),
    "bfloat16": mx.arange(6.0).astype(mx.bfloat16),
    "float16": mx.ones((2, 0), mx.float16),
    "scalar": mx.array(3),
    "bool": mx.array([True, False]),
    "complex": mx.array([1 + 2j]),
    "uint8": mx.array([1, 255], mx.uint8),
}
PLAIN = {name: pickle.dumps(array) for name, array in ARRAYS.items()}


def same(one, other):
    return type(one) is type(ARRAYS["bool"]) and models.same(one, other)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_goes_in_and_out_of_a_block(chain, x, name, protocol):
    array = ARRAYS[name]
    outside = pickle.dumps(array, protocol)
    with chain.trace(x):
        inside = pickle.dumps(array, protocol)
        assert same(pickle.loads(inside), array) and same(pickle.loads(outside), array)
        assert same(copy.deepcopy(array), array) and same(copy.copy(array), array)
        nested = pickle.loads(pickle.dumps({"a": [array, (array, 2)]}))
    assert same(pickle.loads(inside), array) and same(nested["a"][1][0], array)
    assert pickle.dumps(array, protocol) == outside


def test_outside_of_a_block_nothing_is_written_otherwise():
    """As in a process that has no mlxgraph: what is pickled there is read here, and the same."""
    program = (
        "import sys, pickle, mlx.core as mx;"
        "sys.stdout.buffer.write(pickle.dumps(mx.arange(6.0).reshape(2, 3)))"
    )
    written = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert written.stdout == PLAIN["float32"]


def test_what_is_written_in_a_block_is_read_without_the_library(chain, x):
    with chain.trace(x):
        written = pickle.dumps(ARRAYS["bfloat16"])
    program = (
        "import sys, pickle; a = pickle.loads(sys.stdin.buffer.read());"
        "print(a.tolist(), a.dtype, 'mlxgraph' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], input=written, capture_output=True, check=True
    )
    assert said.stdout.split(b"] ")[1].split() == [b"mlx.core.bfloat16", b"False"]


def test_another_thread_pickles_while_a_block_is_open(chain, x):
    found = []
    with chain.trace(x):
        worker = threading.Thread(target=lambda: found.append(pickle.dumps(ARRAYS["float32"])))
        worker.start()
        worker.join()
        chain.output.save()
    assert same(pickle.loads(found[0]), ARRAYS["float32"])


def test_modules_functions_and_saved_values_are_pickled_in_a_block(chain, x):
    module = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with chain.trace(x):
        saved = chain.output.save()
    with chain.trace(x):
        again = pickle.loads(pickle.dumps(module))
        twin = copy.deepcopy(module)
        kept = pickle.loads(pickle.dumps(saved))
        softmax = pickle.loads(pickle.dumps(mx.softmax))
        kind = pickle.loads(pickle.dumps(mx.array))
        numbers = pickle.loads(pickle.dumps(np.array(ARRAYS["float32"])))
        assert softmax is mx.softmax and kind is mx.array
    for other in (again, twin):
        assert models.same(other(ARRAYS["float32"]), module(ARRAYS["float32"]))
    assert same(kept, saved) and numbers.shape == (2, 3)


DUMPS = {"alone": pickle.dumps, "inside": lambda value: pickle.dumps({"h": [value]}, 2)}


@pytest.mark.parametrize("how", DUMPS)
def test_a_recorded_value_is_not_pickled_before_the_run(chain, x, how):
    with chain.trace(x):
        h = chain.layers[0].output
        for value in (h, h[:, -1] * 2, chain.inputs):
            with pytest.raises(PicklingError, match="nothing has run yet") as caught:
                DUMPS[how](value)
            assert "its trace is over" not in str(caught.value)
            assert traceback.extract_tb(caught.tb)[-1].filename == __file__
        kept = h.save()
    DUMPS[how](kept)
    with pytest.raises(NotSavedError, match="its trace is over"):
        DUMPS[how](value)
