"""Draw the pictures of the docs with the embedded model: `python docs/images/make.py`.

The last digits of a map depend on the library that multiplies matrices and on its threads, and a
colour may: so maps are rounded before they are drawn, and come out the same from any.
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import mlx.core as mx
import numpy as np

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph import plot
from mlxgraph.tiny.facts import NEGATIVE_VERBS, POSITIVE, POSITIVE_VERBS

FOLDER = Path(__file__).parent
STRENGTHS = [-3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3]


def share(model: mg.InterpretableModel, logits: mx.array, words: tuple[str, ...]) -> float:
    """The probability that the next token is one of some words."""
    tokens = mx.array([model.single_token(f" {word}") for word in words])
    return mx.sum(mx.softmax(logits)[tokens]).item()


def steady(effects: mg.Effects) -> mg.Effects:
    """The same, rounded to a thousandth of the power of ten above the largest number."""
    numbers = np.asarray(effects, dtype=np.float64)
    digits = 3 - math.ceil(math.log10(np.nanmax(np.abs(numbers))))
    fields = {"coords": effects.coords, "attrs": effects.attrs}
    numbers = np.round(numbers, digits)
    return mg.Effects(numbers, effects.axes, name=effects.name, unit=effects.unit, **fields)


def steering(model: mg.InterpretableModel) -> None:
    """How the continuation of "This movie is" follows a steering vector's strength."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for layer, colour in ((0, "0.65"), (3, "tab:blue"), (4, "tab:orange")):
        name = f"layers.{layer}"
        with model.trace("I love this") as love, model.trace("I hate this") as hate:
            pass
        vector = love.activations[name] - hate.activations[name]
        line = []
        for strength in STRENGTHS:
            edit = {name: iv.add_vector(strength * vector)}
            with model.trace("This movie is", interventions=edit):
                logits = model.output[0, -1].save()
            line.append(100 * share(model, logits, POSITIVE))
        axes.plot(STRENGTHS, line, "o-", color=colour, label=f"added after layer {layer}")
    axes.axvline(0, color="0.8", zorder=0)
    axes.set_ylim(0, 100)
    axes.set_xlabel('strength of "I love this" minus "I hate this"', fontsize=11)
    axes.set_ylabel('"This movie is" + a positive adjective (%)', fontsize=11)
    axes.set_title("Steering: the continuation follows the vector", fontsize=13)
    axes.legend(frameon=False)
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(FOLDER / "steering.png", dpi=120)


def attention(model: mg.InterpretableModel) -> None:
    """Where the heads of layer 2 look."""
    text = "The Eiffel Tower is located in the city of"
    with model.trace(text):
        pattern = model.layers[2].attn.pattern.save()
    figure = plot.attention(pattern, model.str_tokens(text), title=f'Layer 2 on "{text}"')
    figure.savefig(FOLDER / "attention.png", dpi=90)


def maps(model: mg.InterpretableModel) -> None:
    """Patching by position and by head, a causal trace, an ablation map, steering curves."""
    clean, corrupted = "The capital of France is", "The capital of England is"
    answers = {"metric": "logit_diff", "targets": (" Paris", " London")}
    by_position = model.activation_patching(clean, corrupted, "output", positions="all", **answers)
    by_head = model.activation_patching(clean, corrupted, "heads", **answers)
    text = "The Eiffel Tower is located in the city of"
    trace = model.causal_trace(text, " Eiffel Tower", samples=10)
    others = ["The capital of Italy is", "The capital of Japan is", "The capital of Egypt is"]
    ablated = model.ablation(clean, "heads", how="resample", dataset=others, **answers)
    with model.trace("I love this") as love, model.trace("I hate this") as hate:
        pass
    vectors = {
        k: (love.activations[f"layers.{k}"] - hate.activations[f"layers.{k}"])[0, -1]
        for k in (1, 3, 4)
    }

    def positive(logits: mx.array) -> float:
        return share(model, logits, POSITIVE)

    curves = model.steering_curves(
        "This movie is", vectors, strengths=range(-3, 4), metric=positive
    )
    pictures = {
        "patching_by_position": steady(by_position).plot(),
        "patching_by_head": steady(by_head).plot(),
        "causal_trace": steady(trace).plot(),
        "ablation": steady(ablated).plot(),
        "steering_curves": curves.plot(kind="lines"),
    }
    for name, figure in pictures.items():
        figure.savefig(FOLDER / f"{name}.png", dpi=120)


def heads(model: mg.InterpretableModel) -> None:
    """Which heads write to the output directly, and heads by kind."""
    direct = model.path_patching(
        "The capital of France is",
        "The capital of England is",
        metric="logit_diff",
        targets=(" Paris", " London"),
    )
    direct.plot().savefig(FOLDER / "path_patching.png", dpi=90)
    scores = model.head_scores(length=8)
    scores.plot(centre=None).savefig(FOLDER / "head_scores.png", dpi=90)


def steering_layers(model: mg.InterpretableModel) -> None:
    """Which layer and which strength of a steering vector turn a hated movie into a good one."""
    things = ["book", "song", "food", "story"]
    liked, hated = (
        [f"I {verb} this {thing}. It is" for verb in verbs for thing in things]
        for verbs in (POSITIVE_VERBS, NEGATIVE_VERBS)
    )

    def positive_word(logits: mx.array) -> float:
        return share(model, logits, POSITIVE)

    curves = model.steering_curves(
        "I hate this movie. It is",
        mg.steering_vector(model, liked, hated),
        strengths=[0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.2],
        metric=positive_word,
        positions=-1,
    )
    title = 'Which layer: a positive word after "I hate this movie"'
    figure = curves.plot(title=title, figsize=(8.5, 4))
    figure.savefig(FOLDER / "steering_layers.png", dpi=120)


def attribution(model: mg.InterpretableModel) -> None:
    """The exact sweep, attribution patching and integrated gradients, each cell of each."""
    texts = "The capital of France is", "The capital of England is"
    answers = {"metric": "logit_diff", "targets": (" Paris", " London")}
    ways = {
        "activation patching": model.activation_patching(
            *texts, "attn", positions="all", **answers
        ),
        "attribution patching": model.attribution_patching(*texts, "attn", **answers),
        "integrated gradients": model.integrated_gradients(
            *texts, "attn", path="inputs", **answers
        ),
    }
    exact = ways["activation patching"]
    joined = mg.Effects(
        mx.stack([mx.array(one.values) for one in ways.values()]),
        {"method": list(ways), **exact.axes},
        coords=exact.coords,
        name="recovery",
        unit="%",
        attrs={"title": "What each layer's attention brings back, by three methods"},
    )
    joined.plot().savefig(FOLDER / "attribution_patching.png", dpi=120)


def direct_logits(model: mg.InterpretableModel) -> None:
    """What components and heads write onto a logit, and which heads compose."""
    asked = ("The capital of France is", " Paris", " London")
    parts = model.direct_logit_attribution(*asked)
    heads = model.direct_logit_attribution(*asked, by="head")
    scores = model.composition_scores("k").sel(sender_layer=2, receiver_layer=3)
    pictures = {
        "direct_logits": parts.plot(),
        "direct_logits_heads": heads.plot(),
        "composition": scores.plot(centre=None),
    }
    for name, figure in pictures.items():
        figure.savefig(FOLDER / f"{name}.png", dpi=100)


def main() -> None:
    """Draw them all."""
    matplotlib.use("Agg")
    model = mg.tiny()
    text = "The Eiffel Tower is located in the city of"
    lens = model.logit_lens(text, plot=True, max_display_tokens=9, figsize=(11, 4.5))
    lens.figure.savefig(FOLDER / "logit_lens.png")
    lens = model.logit_lens(text, token=" Paris")
    figure = lens.plot(max_display_tokens=9, figsize=(11, 4.5), color="rank")
    figure.savefig(FOLDER / "logit_lens_rank.png")
    patching = model.activation_patching(
        "The capital of France is",
        "The capital of England is",
        component="self_attn",
        plot=True,
        figsize=(8, 5),
    )
    patching.figure.savefig(FOLDER / "activation_patching.png", dpi=120)
    steering(model)
    attention(model)
    maps(model)
    heads(model)
    steering_layers(model)
    attribution(model)
    direct_logits(model)


if __name__ == "__main__":
    main()
