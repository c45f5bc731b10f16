"""Modules exchanged, deleted, looped over, looked for and compared by their handles."""

from __future__ import annotations

import traceback

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import NoValueError, UnknownSiteError
from tests import models


def raises(kind, said, use):
    with pytest.raises(kind) as caught:
        use()
    assert said in str(caught.value), caught.value
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__


EXCHANGES = {
    "a part": (
        lambda m: setattr(m.layers[0], "mlp", nn.Identity()),
        "`model.layers[0].module.mlp = module`",
    ),
    "with a number": (lambda m: setattr(m.layers[0], "mlp", 0), "model.layers[0].mlp.output"),
    "an alias": (
        lambda m: setattr(m.layers[0], "attn", nn.Identity()),
        "`model.layers[0].attn.output = value`",
    ),
    "a layer": (
        lambda m: m.layers.__setitem__(0, nn.Identity()),
        "`model.layers.module[0] = module`",
    ),
    "deleted": (lambda m: delattr(m.layers[0], "mlp"), "`model.layers[0].module.mlp = module`"),
    "of the model": (lambda m: delattr(m, "model"), "`model.module.model = module`"),
}


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_part_is_not_exchanged_by_its_handle(tied, tokens, name):
    use, said = EXCHANGES[name]
    raises(UnknownSiteError, said, lambda: use(tied))
    before = models.identity_of(tied.module)
    with tied.trace(tokens):
        raises(UnknownSiteError, said, lambda: use(tied))
    assert models.identity_of(tied.module) == before


def test_a_layer_that_is_written_is_told_of_its_output(tied, tokens):
    with tied.trace(tokens):
        raises(NoValueError, "`model.layers[1].output = value`", lambda: put(tied))


def put(model):
    model.layers[1] = mx.zeros((2, 6, 32))


def test_what_it_says_to_write_exchanges_the_module(fresh, tokens):
    before = fresh(tokens)
    fresh.layers[0].module.mlp = nn.Identity()
    assert not models.same(fresh(tokens), before, 1e-3)
    with fresh.trace(tokens):
        out, given = fresh.layers[0].mlp.output.save(), fresh.layers[0].mlp.input.save()
    assert models.same(out, given)


LOOPS = {
    "for": lambda m: [part for part in m.layers[0]],
    "list": lambda m: list(m.layers[0].mlp),
    "unpacked": lambda m: [*m.layers[0].mlp],
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_over_one_module(tied, name):
    raises(NoValueError, "Write `for h in model.layers[0]", lambda: LOOPS[name](tied))
    assert issubclass(NoValueError, TypeError)
    assert [layer.path for layer in tied.layers] == [f"model.layers.{k}" for k in range(3)]


def test_a_loop_over_a_model(tied):
    raises(TypeError, "`for layer in model.layers`", lambda: list(tied))


@pytest.mark.parametrize("key", [(0, 1), 1.5, None, "a"])
def test_layers_go_by_number(tied, key):
    said = "It has: 0, 1, 2" if key == "a" else "Write model.layers[0] for one"
    raises(UnknownSiteError, said, lambda: tied.layers[key])


def test_what_a_model_and_a_module_hold(tied):
    for name in ("layers.0", "model.layers.1.mlp", "layers.*.attn", "__model_output__"):
        assert name in tied
    for name in ("layers.12", "layers.1.mpl", "nothing.*"):
        assert name not in tied
    assert tied.layers[1].mlp in tied and "mlp" in tied.layers[0] and "attn" in tied.layers[0]
    assert "mpl" not in tied.layers[0] and tied.layers[0].mlp in tied.layers[0]
    assert tied.layers[2] in tied.layers and tied.layers[0].mlp not in tied.layers[1]
    raises(TypeError, "named by a text", lambda: 5 in tied)


def test_handles_of_one_module_are_equal(tied, llama, tokens):
    assert tied.layers[0] == tied.layers[0] == tied["layers.0"] and tied.layers[0] in tied.layers
    assert tied.layers[0] != tied.layers[1] and tied.layers[0] != "layers.0"
    assert tied.layers[0].attn == tied.layers[0].self_attn
    assert tied.layers[0].attn.rope.calls[1] != tied.layers[0].attn.rope.calls[0]
    assert {tied.layers[0]: 1}[tied.layers[0]] == 1 and len({tied.layers[0], tied.layers[-3]}) == 1
    other = mg.InterpretableModel(models.make_llama())
    assert other.layers[0] != tied.layers[0]
    both = {tied.layers[0]: iv.scale(2.0), tied.layers[-3]: iv.zero_out}
    assert len(both) == 1
    with tied.trace(tokens, interventions=both):
        assert not tied.layers[0].output.save().any().item()


def test_an_added_module_can_be_taken_away(chain, x):
    chain.probe = nn.Linear(6, 2)
    with chain.trace(x):
        chain.probe(chain.output).save()
    del chain.probe
    with pytest.raises(AttributeError):
        chain.probe  # noqa: B018
    raises(UnknownSiteError, "no added module 'probe'", lambda: delattr(chain, "probe"))
    chain.probe = nn.Linear(6, 3)
    with chain.trace(x):
        assert chain.probe(chain.output).save().shape[-1] == 3
