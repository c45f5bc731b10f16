"""What a logit lens found: predictions by layer, and numbers that go where other results go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mlxgraph.analysis import lens_text
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.effects_map import look_of
from mlxgraph.analysis.readable import Token
from mlxgraph.errors import InputError, UnknownNameError
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.plot.lens import Grid, Scale, lens_heatmap

COLOURS = ("probability", "entropy", "rank")


class Measured(NamedTuple):
    """The numbers of a lens, (layers, positions): T is how many tokens were asked for.

    Attributes:
        probabilities: of the best predictions, best first, (layers, positions, top_k).
        score: of the top predictions.
        entropy: of all that might come next, in nats.
        asked_probability, asked_score, asked_rank: of the tokens asked for,
            (layers, positions, T).
        vocabulary: how many tokens there are.
    """

    probabilities: Any
    score: Any
    entropy: Any
    asked_probability: Any
    asked_score: Any
    asked_rank: Any
    vocabulary: int

    @property
    def probability(self) -> Any:
        """Of the top predictions."""
        return self.probabilities[..., 0]


class Read(NamedTuple):
    """What a lens was of.

    Attributes:
        layers: their numbers.
        tokens: the input token at each position looked at, as a text.
        position: the position alone that was asked for.
        asked: the ids of the tokens that were asked for, by what they were called.
        one: whether a single token was asked for, and there is no axis of them.
        labels: texts of the input to look at.
        words: those of the best predictions, by layer and position, best first.
        places: the positions that were looked at.
    """

    layers: list[int]
    tokens: list[str]
    position: int | None
    asked: Mapping[Token, int]
    one: bool
    labels: list[str]
    words: list[list[list[str]]]
    places: list[int]


@with_edges
class Lens(Effects, dict):  # type: ignore[misc]  # a dict has no hash
    """`{layer: predictions}` of a logit lens, which is also `Effects`.

    Its values are the probabilities of the top predictions; of the tokens that were asked for, if
    any were.  Axes are "layer", "position" (coord "token") unless one position was asked for, and
    "target" where `tokens=` named several.

    Attributes:
        tokens: the text's tokens as strings, one for each position that was looked at; as
            numbers without a tokenizer.
        figure: the matplotlib figure, if `plot=True` asked for one.
    """

    def __init__(self, found: Mapping[int, Any], numbers: Measured, read: Read):
        dict.__init__(self, found)
        self.tokens = read.tokens
        self.figure: Any = None
        self._numbers, self._read = numbers, read
        values = numbers.asked_probability if read.asked else numbers.probability
        fields = self._fields("probability", bool(read.asked))
        Effects.__init__(self, self._cut(values), name="probability", **fields)

    def _fields(self, name: str, of_asked: bool) -> dict[str, Any]:
        """Axes and coords of some of its numbers."""
        read = self._read
        axes: dict[str, Any] = {"layer": read.layers}
        coords: dict[str, Any] = {}
        attrs: dict[str, Any] = {}
        if read.position is None:
            axes["position"] = read.places
            coords["token"] = ("position", read.tokens)
        else:
            attrs["at"] = {"position": read.position, "token": read.tokens[0]}
        if of_asked and read.one:
            attrs.setdefault("at", {})["target"] = next(iter(read.asked))
        elif of_asked:
            axes["target"] = list(read.asked)
            coords["target_id"] = ("target", list(read.asked.values()))
        return {"axes": axes, "coords": coords, "attrs": attrs}

    def _cut(self, values: Any) -> Any:
        """Numbers without the axes that were not asked for."""
        if values.ndim == 3 and self._read.one:
            values = values[..., 0]
        return values if self._read.position is None else values[:, 0]

    def _effects(self, values: Any, name: str, unit: str = "") -> Effects:
        of_asked = values.ndim == 3
        return Effects(self._cut(values), name=name, unit=unit, **self._fields(name, of_asked))

    @property
    def probability(self) -> Effects:
        """The values alone, without the dict."""
        return self.isel()

    @property
    def entropy(self) -> Effects:
        """How unsure each layer is at each position: the entropy of its distribution, in nats."""
        return self._effects(self._numbers.entropy, "entropy", "nats")

    @property
    def score(self) -> Effects:
        """The logits of the top predictions; of the tokens that were asked for, if any were."""
        asked = bool(self._read.asked)
        return self._effects(self._numbers.asked_score if asked else self._numbers.score, "score")

    @property
    def rank(self) -> Effects:
        """The ranks of the tokens that were asked for: 1 is the top prediction.

        Raises: InputError where none were.
        """
        if not self._read.asked:
            raise InputError(_OF_NONE)
        return self._effects(self._numbers.asked_rank, "rank")

    def __eq__(self, other: object) -> bool:
        """Whether it is the same dict; the same numbers too, where the other has some."""
        if isinstance(other, Effects) and not isinstance(other, dict):
            return Effects.__eq__(self, other)
        same = dict.__eq__(self, other)
        return Effects.__eq__(self, other) if same and isinstance(other, Effects) else same

    __hash__ = None  # type: ignore[assignment]

    def to_frame(self) -> Any:
        """A pandas DataFrame, a row for each cell: layer, position, token, prediction, target where
        several were asked for, and numbers.

        `entropy` is of the whole distribution; `score`, `rank` and `probability` are of the tokens
        that were asked for; if none were, of the prediction, and there is no `rank`.
        Raises: MissingDependencyError (an ImportError).
        """
        frame = Effects.to_frame(self)
        probability = frame.pop("probability")
        each = max(len(self._read.asked), 1)
        best = [found[0][2] for found in self._found()]
        frame["prediction"] = [text for text in best for _ in range(each)]
        frame["entropy"] = np.repeat(self._numbers.entropy.reshape(-1), each)
        frame["score"] = np.asarray(self.score).reshape(-1)
        if self._read.asked:
            frame["rank"] = np.asarray(self.rank).reshape(-1)
        frame["probability"] = probability
        return frame

    def to_json(self) -> str:
        """All of it as JSON, of which `mg.Effects.from_json` makes its values again.

        Among `attrs` are `"predictions"` (for each layer and position the best tokens, each with
        `"token"`, `"id"`, `"score"` and `"probability"`) and `"entropy"`; where tokens were asked
        for, `"score"` and `"rank"` of these, along the axes of the values.
        """
        layers = list(dict.values(self))
        if self._read.position is not None:
            layers = [[found] for found in layers]
        said = lens_text.beside(layers, self._numbers, self._read)
        if self._read.asked:
            said |= {
                k: np.asarray(e).tolist() for k, e in (("score", self.score), ("rank", self.rank))
            }
        fields = {**self._fields("probability", bool(self._read.asked)), "name": self.name}
        return Effects(self.values, **{**fields, "attrs": {**self.attrs, **said}}).to_json()

    def to_text(  # type: ignore[override]  # its pictures are of words
        self,
        width: int = 80,
        *,
        ansi: bool = False,
        color: str = "probability",
        token: Token | None = None,
    ) -> str:
        """A picture in letters, for a terminal.

        The top predictions by position and layer, shaded by how sure they are; numbers of tokens
        that were asked for; of one position a list of its best predictions, a line a layer.

        Args:
            width, ansi: as of `Effects.to_text`.
            color, token: as of `plot`.
        Raises: as `plot`, but for a colormap.
        """
        check_colour(color, self._read.asked, token)
        look, names = look_of(width, ansi), list(self._read.asked)
        if self._read.position is not None:
            return lens_text.listed(self._numbers, self._read, look)
        if len(names) > 1 and token is None and color == "probability":
            return Effects.to_text(self, width, ansi=ansi, limit=1.0)
        token = names[0] if token is None and len(names) == 1 else token
        if token is not None and color != "entropy":
            return lens_text.of_token(self._numbers, self._read, color, names.index(token), look)
        return lens_text.words(self._numbers, self._read, color, look)

    def _found(self) -> list[Any]:
        """The predictions at each position, layer by layer."""
        layers = list(dict.values(self))
        one = self._read.position is not None
        return layers if one else [found for layer in layers for found in layer]

    def plot(  # type: ignore[override]  # the picture of the reference documents
        self,
        max_display_tokens: int = 15,
        figsize: tuple[float, float] | None = None,
        cmap: str = "viridis",
        color: str = "probability",
        token: Token | None = None,
    ) -> Any:
        """The heatmap of top predictions by layer and position, coloured by a number.

        Args:
            max_display_tokens: how many positions to show, counted from the end.
            figsize: inches; left out, it follows the grid.
            cmap: a colormap of matplotlib's; its high end is high probability, low entropy, and a
                rank of 1.
            color: `"probability"`, of the token that was asked for, else of the top prediction;
                `"entropy"`, in nats; `"rank"`, of the token that was asked for, in a logarithmic
                scale.
            token: which of the tokens that were asked for, where there are several.
        Returns: a matplotlib Figure.
        Raises: UnknownNameError for another `color`, InputError for a token that the lens was not
            asked for or a figsize, UnknownNameError for a colormap, MissingDependencyError.
        """
        check_colour(color, self._read.asked, token)
        numbers, names = self._numbers, list(self._read.asked)
        token = names[0] if token is None and len(names) == 1 else token
        which = None if token is None else names.index(token)
        of = "the top prediction" if token is None else repr(token)
        values = numbers.entropy
        if color == "rank":
            values = numbers.asked_rank[..., which]
        elif color == "probability":
            values = numbers.probability if which is None else numbers.asked_probability[..., which]
        best = [[words[0] for words in layer] for layer in self._read.words]
        grid = Grid(self._read.layers, self._read.labels, best, values)
        scale = _scale(color, of, numbers.vocabulary)
        return lens_heatmap(grid, scale, max_display_tokens, figsize, cmap)


def check_colour(color: Any, asked: Mapping[Token, int], token: Token | None = None) -> None:
    """Raise UnknownNameError for no colour, InputError where it is of no token."""
    if color not in COLOURS:
        raise UnknownNameError("color", str(color), COLOURS)
    if token is not None and token not in asked:
        known = f" for {', '.join(map(repr, asked))}" if asked else " for no token"
        raise InputError(
            f"the lens was asked{known}, and not for {token!r}.\n"
            f"  Write model.logit_lens(text, token={token!r})."
        )
    if color == "rank" and token is None and len(asked) != 1:
        raise InputError(_OF_WHICH if asked else _OF_NONE)


_OF_NONE = (
    "a rank is that of a token, and the lens was asked for none.\n"
    "  Write model.logit_lens(text, token=' Paris')."
)
_OF_WHICH = (
    "a picture is of the rank of one token, and the lens was asked for several.\n"
    "  Write lens.plot(color='rank', token=' Paris') for one of them."
)


def _scale(color: str, of: str, vocabulary: int) -> Scale:
    if color == "entropy":
        most = math.log(vocabulary)
        return Scale(("entropy of the next token (nats)", "entropy (nats)"), 0, most, turned=True)
    if color == "rank":
        return Scale((f"rank of {of}", "rank"), 1, max(vocabulary, 2), True, turned=True)
    return Scale((f"probability of {of}", "probability"), 0, 1)
