"""R10 at its hardest: an interrupt at any instruction leaves nothing behind.

Python can be told to call a function before every instruction.  The function raises
KeyboardInterrupt at the n-th instruction of the library's own code, or of the user's block, that a
trace runs.  The marked tests do so at every 31st, with INTERRUPTS=all at every one (an hour or so),
and send real signals at random moments.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import time

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.record.stack import stack
from tests import models
from tests.laws.test_residue import namespaces

# what is called as an object dies cannot pass an interrupt on, and Python says so
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ALL = os.environ.get("INTERRUPTS") == "all"
SIGNALS = 3000 if ALL else 1000
PACKAGE = os.path.dirname(os.path.abspath(mg.__file__)) + os.sep


class Instructions:
    """Counts the instructions of the library and of some functions in a `with` block, and raises
    at the one it is told."""

    def __init__(self, *functions, at: int | None = None):
        self.codes = {function.__code__ for function in functions}
        self.at = at
        self.count = 0
        self.where = ""

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *exc):
        sys.settrace(self.before)

    def _call(self, frame, event, arg):
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) and code not in self.codes:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._instruction

    def _instruction(self, frame, event, arg):
        if event == "opcode":
            self.count += 1
            if self.count == self.at:
                code = frame.f_code
                self.where = f"{code.co_filename}:{frame.f_lineno} {code.co_name} {frame.f_lasti}"
                raise KeyboardInterrupt(self.where)
        return self._instruction


def program(model, x):
    with model.trace(x, compile=False):
        h = model.layers[0].output
        h[:, -1] += 1
        out = model.output.save()
    return out


def looking(model, x):
    with model.trace(x, compile=False):
        h = model.layers[0].output
        model.layers[1].input = mx.softmax(h, axis=-1) + mx.random.normal((6,), key=KEY)
        float(h.sum())
        out = model.output.save()
    return out


def invoking(model, x):
    with model.trace(compile=False) as t:
        with t.invoke(x):
            model.layers[0].output *= 2
            out = model.output.save()
    return out


def nesting(model, x):
    with model.trace(x, compile=False):
        with model.trace(x, compile=False):
            inner = model.layers[1].output.save()
        model.layers[1].output = inner * 2
        out = model.output.save()
    return out


def editing(model, x):
    with model.edit(x) as edited:
        edited.layers[0].output *= 2
    return edited(x)


def inside(model, x):
    with model.trace(x, compile=False):
        model.ops["tanh", 1].output *= 2
        out = model.output.save()
    return out


KEY = mx.random.key(4)
PROGRAMS = [program, looking, invoking, nesting, editing, inside]


@pytest.fixture
def ready():
    """A model of a few layers, and what it takes to say that nothing is left of an interrupt."""
    mx.random.seed(1)
    module = models.Chain(depth=2)
    mx.eval(module.parameters())
    return mg.InterpretableModel(module)


class Clean:
    """MLX, the model and what is open, as they were; and what a program gives."""

    def __init__(self, model, x, program):
        self.model, self.x, self.program = model, x, program
        program(model, x)
        self.expected = program(model, x)
        self.spaces, self.tree = namespaces(), models.identity_of(model.module)

    def check(self, where):
        assert not stack.open and not stack.paused, where
        assert namespaces() == self.spaces, where
        assert models.identity_of(self.model.module) == self.tree, where
        assert models.same(self.program(self.model, self.x), self.expected), where
        assert namespaces() == self.spaces, where


def interrupted_everywhere(model, x, program, steps):
    clean = Clean(model, x, program)
    with Instructions(program) as all_of_them:
        program(model, x)
    assert all_of_them.count > 4000
    chosen, reached = steps(all_of_them.count), 0
    for at in chosen:
        with Instructions(program, at=at) as now:
            try:
                program(model, x)
            except KeyboardInterrupt:
                reached += 1
        clean.check(now.where)
    # Runs differ by a few instructions, where garbage is collected: the last may be past the end.
    assert reached > 0.9 * len(chosen)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.thin(2)
def test_an_interrupt_at_some_instructions_leaves_no_residue(ready, x, program):
    interrupted_everywhere(ready, x, program, lambda count: range(1, count + 1, 401))


ENDS = set(
    """__enter__ __exit__ _over _close close settle respect_others want want_no_more __get__
    __call__ enter leave _generator __init__ trace""".split()
)


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("program", [program, invoking, editing])
def test_an_interrupt_at_the_instructions_of_both_ends_of_a_block_leaves_no_residue(
    ready, x, program, step
):
    """Where a block is opened and closed, and in the user's own frame, every one counts."""
    clean = Clean(ready, x, program)
    chosen, plain = [], (mx.softmax, mx.array, nn.gelu)

    class Noted(Instructions):
        def _instruction(self, frame, event, arg):
            code = frame.f_code
            files = ("intercept.py", "namespaces.py", "stack.py", "trace.py", "prompts.py")
            files += ("edit_block.py",)
            if event == "opcode" and (code in self.codes or (
                code.co_name in ENDS and code.co_filename.endswith(files)
            )):  # fmt: skip
                chosen.append(self.count + 1)
            return super()._instruction(frame, event, arg)

    with Noted(program):
        program(ready, x)
    assert len(chosen) > 300
    reached, chosen = 0, chosen[::step]
    for at in chosen:
        with Instructions(program, at=at) as now:
            try:
                program(ready, x)
            except KeyboardInterrupt:
                reached += 1
        assert not stack.open and not stack.paused, now.where
        assert (mx.softmax, mx.array, nn.gelu) == plain, now.where
    clean.check("the last")
    assert reached > 0.9 * len(
        chosen
    )  # a run may be shorter by what the collector did in the other


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_interrupt_at_many_more_instructions_leaves_no_residue(ready, x, program):
    first, step = (1, 1) if ALL else (17, 31)
    interrupted_everywhere(ready, x, program, lambda count: range(first, count + 1, step))


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_real_signals_at_random_moments_leave_no_residue(ready, x, program):
    """Ctrl-C is a signal: thousands of them, from a timer, at moments of its own choice."""
    clean = Clean(ready, x, program)
    begin = time.perf_counter()
    for _ in range(20):
        program(ready, x)
    takes = (time.perf_counter() - begin) / 20
    moments = random.Random(7)
    came = 0
    for turn in range(30_000):
        try:
            signal.setitimer(signal.ITIMER_REAL, max(moments.uniform(0, 0.9) * takes, 1e-6))
            program(ready, x)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            came += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        clean.check(turn)
        if came == SIGNALS:
            break
    assert came == SIGNALS


@pytest.fixture(autouse=True)
def _the_timer_interrupts():
    """SIGALRM, which a timer sends, is answered as Ctrl-C is; by nobody who is called when garbage
    is collected, as hypothesis is, and cannot pass it on."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    called, gc.callbacks[:] = gc.callbacks[:], []
    yield
    gc.callbacks[:] = called
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
