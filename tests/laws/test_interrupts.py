"""R10 at its hardest: an interrupt at any line of the library leaves nothing behind.

Python can be told to call a function before every line.  The function raises KeyboardInterrupt
at the n-th line of the library's own code that a trace runs, for many n.
"""

from __future__ import annotations

import linecache
import os
import sys

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.record.stack import stack
from tests import models
from tests.laws.test_residue import namespaces

PACKAGE = os.path.dirname(os.path.abspath(mg.__file__)) + os.sep
# The lines that put things in place and back are between two worlds: an interrupt exactly there
# can be answered by no code that runs after them.  Nor can one at the end of a `with`, before
# its way out is called.
BETWEEN = {"install", "uninstall", "intercepted", "__enter__", "__exit__", "paused", "restore"}


class Lines:
    """Counts the library's lines in a `with` block, and raises at the one it is told."""

    def __init__(self, at: int | None = None):
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
        if not code.co_filename.startswith(PACKAGE) or code.co_name in BETWEEN:
            return None
        return self._line

    def _line(self, frame, event, arg):
        row = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and not row.startswith("with "):
            self.count += 1
            if self.count == self.at:
                self.where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                raise KeyboardInterrupt(self.where)
        return self._line


def program(model, x):
    with model.trace(x, compile=False) as t:
        h = model.layers[0].output
        h[:, -1] += 1
        model.layers[1].input = mx.softmax(h, axis=-1)
        float(h.sum())
        out = model.output.save()
    return out, t


@pytest.mark.parametrize("part", range(4))
def test_an_interrupt_at_any_line_leaves_no_residue(x, part):
    mx.random.seed(1)
    module = models.Chain()
    mx.eval(module.parameters())
    model = mg.InterpretableModel(module)
    program(model, x)
    spaces, tree = namespaces(), models.identity_of(module)
    expected, _ = program(model, x)
    with Lines() as lines:
        program(model, x)
    assert lines.count > 500
    for at in range(1 + part, lines.count, 4 * 7):
        model.refresh()
        with Lines(at) as now:
            with pytest.raises(KeyboardInterrupt):
                program(model, x)
        assert not stack.open and not stack.paused, now.where
        assert namespaces() == spaces, now.where
        assert models.identity_of(module) == tree, now.where
        assert models.same(program(model, x)[0], expected), now.where
