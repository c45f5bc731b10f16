"""Modules and sites: names that do not exist, sites without a value, edits out of order."""

from __future__ import annotations

from collections.abc import Iterable

from mlxgraph.errors.base import MLXGraphError, close_matches, suggest

_STEPS = (
    "Steps are those of a generation: `with model.generate(prompt) as t:`, and t.step[1:] in it."
)
_TIED = (
    "A head that is tied to the embedding is no module of its own. Its logits are model.output;"
    " model.get_token_predictions(h) applies the final norm and the head, and model.unembed(token)"
    " is a token's row of it."
)
_NOT_EMPTIED = (
    "Edits end with their block. model.without_edits() is the model without those that stay, and"
    " model.refresh() lets go of compiled runs."
)
_HOOK = "Write model.{} in a block; by name it is '{}'."
ELSEWHERE = {  # what people know from other libraries, and what it is here
    "invoke": "Several prompts go into `with model.trace() as t:`, opened without inputs.",
    "scan": "Shapes are known inside every block: h.shape runs nothing.",
    "session": "Values that are saved flow from one trace into the next; no session is needed.",
    "next": "Write `module.calls[k]` for the k-th call in one forward, t.step[k] for a step of a"
    " generation.",
    "source": "Write module.ops: what the module's own forward calls.",
    "run_with_cache": "Write `with model.trace(x) as t:` and look values up in t.activations.",
    "run_with_hooks": "Write model.trace(x, interventions={name: function}).",
    "result": "Write t.output, the model's output in this run.",
    "logits": "Write model.output in the block, and t.output after it.",
    "saves": "Write t.saved_values, by name.",
    "saved": "Write t.saved_values, by name.",
    "value": "After its block a saved value is the array itself.",
    "iter": _STEPS,
    "all": _STEPS,
    "step": _STEPS,
    "local": "Everything runs on this machine.",
    "config": "Write model.module.args, where the model keeps its settings.",
    "cfg": "Write model.module.args, where the model keeps its settings.",
    "device": "MLX has one memory: arrays have no device.",
    "blocks": "Write model.layers[k].",
    "add_hook": "Write model.trace(x, interventions={name: function}), or model.edit(graph).",
    "hooks": "Write model.trace(x, interventions={name: function}), or model.edit(graph).",
    "reset_hooks": "Nothing to reset: edits end with their block, and model.edit(graph) is another"
    " model.",
    "clear": _NOT_EMPTIED,
    "pop": _NOT_EMPTIED,
    "popitem": _NOT_EMPTIED,
    "copy": "model.edit(graph) is another model on the same weights.",
    **dict.fromkeys(
        ("items", "fromkeys", "setdefault"), "Write model.named_modules(), or model.module."
    ),
    "get": "Write model['layers.1.mlp'], or t.get(name) for a value of a trace.",
    "to_tokens": "Write model.encode(text).",
    "to_string": "Write model.decode(tokens).",
    "to_str_tokens": "Write model.str_tokens(text).",
    "to_single_token": "Write model.single_token(' Paris').",
    "get_token_position": "Write model.position(text, ' France').",
    "tokens_to_residual_directions": "Write model.unembed(token).",
    "to_single_str_token": "Write model.token_to_str(token).",
    "W_E": "Write model.weight('model.embed_tokens').",
    "W_U": "Write model.weight('lm_head'), or the embedding's where they are tied;"
    " model.unembed(token) is one row.",
    "lm_head": _TIED,
    "ln_final": "Write model.model.norm.",
    "embed": "Write model.model.embed_tokens.",
    "hook_resid_pre": _HOOK.format("layers[k].resid_pre", "layers.k.resid_pre"),
    "hook_resid_mid": _HOOK.format("layers[k].resid_mid", "layers.k.resid_mid"),
    "hook_resid_post": _HOOK.format("layers[k].resid_post", "layers.k.resid_post"),
    "hook_attn_out": _HOOK.format("layers[k].attn.output", "layers.k.attn"),
    "hook_mlp_out": _HOOK.format("layers[k].mlp.output", "layers.k.mlp"),
    "hook_embed": _HOOK.format("model.embed_tokens.output", "model.embed_tokens"),
    "generate": "Write model.generate(prompt, max_tokens=20).",
    "sweep": "Write model.sweep(x, [g1, g2]), or model.sweep(x, g, over={'alpha': [0.0, 1.0]}).",
    **{
        port: f"It is a value of an attention: write model.layers[k].attn.{port} in a block."
        for port in ("queries", "keys", "values", "scores", "pattern", "heads")
    },
    **{
        name: f"It is the residual stream at a layer: write model.layers[k].{name} in a block, and"
        f" 'layers.k.{name}' for its name."
        for name in ("resid_pre", "resid_mid", "resid_post")
    },
}


class UnknownSiteError(MLXGraphError, AttributeError, KeyError):
    """A name that no module of the model has."""

    def __init__(
        self,
        name: str,
        known: Iterable[str],
        owner: str = "the model",
        *,
        also: Iterable[str] = (),
        kind: str = "module",
        advice: str = "",
        near: list[str] | None = None,
    ):
        """`also` are names of other things than modules that may have been meant; `near`, what
        was meant, where that is known better than by looks."""
        known = list(dict.fromkeys(known))
        elsewhere = ELSEWHERE.get(name.rpartition(".")[2])
        if near is None and not elsewhere:
            near = close_matches(name, [*known, *also])
            listed = not near
        else:
            listed = False
        hint = "" if elsewhere else suggest(near or [])
        if listed:
            shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            hint = f"\n  It has: {shown or 'no modules'}."
        end = advice or elsewhere or "model.named_modules() lists every name."
        super().__init__(f"{owner} has no {kind} {name!r}.{hint}\n  {end}")


class SiteNameError(UnknownSiteError, TypeError):
    """Something else where the name of a module is needed."""

    def __init__(self, given: object, write: str = ""):
        what = f"a module is named by a text or by its handle, not by a {type(given).__name__}"
        if isinstance(given, str):
            what = f"{given!r} is not the name of one module"
        MLXGraphError.__init__(
            self,
            f"{what}.\n  Write "
            + (write or "'layers.1.mlp', a pattern such as 'layers.*.mlp', or model.layers[1].mlp")
            + ".",
        )


class PatternError(MLXGraphError, ValueError):
    """A pattern of names whose brackets hold no range of numbers."""

    def __init__(self, pattern: str, instead: str):
        """`instead`: the same pattern, as far as it can be told what was meant."""
        write = f"{instead!r}: " if instead != pattern else ""
        super().__init__(
            f"{pattern!r} has brackets that are no range of layers.\n  Write {write}"
            "one module is 'layers.2.mlp', several are 'layers.[4-8].mlp', 'layers.[0,2,4-6]' or"
            " 'layers.*'."
        )


class WeightError(UnknownSiteError, TypeError):
    """A write to a weight by a module handle: weights are no sites."""

    def __init__(self, name: str, module: str, where: str, entry: bool = False):
        """`entry`: a write into the copy that the handle gave."""
        if entry:
            MLXGraphError.__init__(
                self,
                f"{module}.{name} is a copy in a block: what is written into it changes nothing of"
                f" the model.\n  at {where}\n"
                f"  Write to `{module}.output` to edit what the module gives, or change the weight"
                f" itself outside of the block: `{module}.module.{name}[...] = ...`; a copy of"
                f" your own is `mx.array({module}.{name})`.",
            )
            return
        MLXGraphError.__init__(
            self,
            f"{module}.{name} is a weight, and weights are no sites: a block edits"
            f" values.\n  at {where}\n"
            f"  Write `{module}.output *= 2` to edit what the module gives, or change the weight"
            f" itself outside of the block: `{module}.module.{name} = ...`.",
        )


class LayersError(MLXGraphError, AttributeError):
    """The model has no list of layers under the given attribute."""


class NameTakenError(MLXGraphError, AttributeError):
    """An added module under a name that the model uses."""

    def __init__(self, name: str):
        super().__init__(
            f"the model already has {name!r}.\n"
            "  Add the module under another name: `model.my_sae = module`. To exchange a module of"
            " the model itself, set it on the module that you wrapped."
        )


class CountError(MLXGraphError, ValueError):
    """A pattern that matches another number of modules than `expect` says."""

    def __init__(self, pattern: str, found: list[str], expect: int, where: str):
        listed = ", ".join(found[:6]) + (", ..." if len(found) > 6 else "")
        super().__init__(
            f"{pattern!r} was to match {expect} modules and matches {len(found)}: "
            f"{listed or 'none'}.\n  written at {where}\n"
            "  Correct the pattern, or `expect`."
        )


class HeadsError(MLXGraphError, ValueError):
    """`heads=` on a module whose heads cannot be told apart."""

    def __init__(self, path: str, kind: str, where: str, advice: str = ""):
        needed = "" if advice else ": it needs a head count and an output projection"
        advice = advice or (
            "Name the attention module (`layers.3.attn`), or edit a view of its output."
        )
        super().__init__(
            f"{path} ({kind}) has no heads that can be told apart{needed}.\n"
            f"  written at {where}\n  {advice}"
        )


class NeverCalledError(MLXGraphError, ValueError):
    """A module that this forward does not call, so that nothing can be read or written there."""

    def __init__(
        self, site: str, where: str, called: Iterable[str], times: int = 0, reason: str = ""
    ):
        if reason:
            MLXGraphError.__init__(self, f"{site} has no value: {reason}\n  at {where}")
            return
        nearby = suggest(close_matches(site, called))
        how = (
            f"the forward calls it {times} time{'s' if times != 1 else ''} with these inputs"
            if times
            else "the forward never calls it with these inputs"
        )
        super().__init__(
            f"{site} has no value: {how}.\n  at {where}{nearby}\n"
            "  A module that the model reaches by another method (a tied embedding's "
            "`as_linear`, say) is not a call: use the module around it."
        )


class OrderError(MLXGraphError, ValueError):
    """An edit needs a value that the forward pass has not produced yet."""

    def __init__(self, write: str, read: str, where: str, read_where: str):
        super().__init__(
            f"cannot write {write} from {read}: the model computes {read} later.\n"
            f"  written at {where}\n  {read} was read at {read_where or where}\n"
            f"  Write at {read} or after it, or save {read} in an earlier trace and use it here."
        )


class GradientOrderError(OrderError):
    """A write that needs a gradient, which is known only when the forward is over."""

    def __init__(self, write: str, where: str):
        MLXGraphError.__init__(
            self,
            f"cannot write {write} with a gradient: gradients are known when the whole forward is"
            f" over.\n  written at {where}\n"
            "  Save the gradient, and write with it in a later trace.",
        )
