"""Site names: every form in which a user may name a module, and the one path they mean.

In: the module tree and the attribute that holds the layers.  Out: canonical dotted paths.
Canonical is what `named_modules` gives.  Also accepted: the root prefix `model.` before a
canonical path, a path relative to the layer container (`layers.5.mlp`, whatever the container is
called), and `attn` / `mlp` for whatever a block calls these.
A name may end in a port or a call (`graph.site_name`); a module that is called so comes first.
Never: guesses.  What no rule reads is an UnknownSiteError with close matches.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, NamedTuple

from mlxgraph.errors import LayersError, SiteNameError, UnknownSiteError, numbered
from mlxgraph.graph.inside import ATTENTION, OPS, below, parted
from mlxgraph.graph.pattern import ALIASES, is_pattern, matches, numbers_of, split
from mlxgraph.graph.site import BY_NAME, INPUTS, MODEL_OUTPUT, OUTPUT, ROOT_PREFIX, Site
from mlxgraph.graph.site_name import SiteName, site_text, taken_apart
from mlxgraph.graph.stream import RESID_MID, RESID_PRE, STREAM, is_layer, is_middle
from mlxgraph.run.tree import ModuleTree

ROOT = ROOT_PREFIX.rstrip(".")
_NEGATIVE = re.compile(r"-\d+")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


class NamedSite(NamedTuple):
    """What a name means: a site, or (`first`) the first argument among its inputs, the first array
    of its output.  `stream`: the name of the residual stream that it went by, if it did."""

    site: Site
    first: bool = False
    stream: str = ""

    @property
    def name(self) -> str:
        """The canonical name: an output goes by its module's path."""
        whole = self.site.name
        return whole.removesuffix("s") if self.first and self.site.port == INPUTS else whole


class Names:
    """The names of one module tree."""

    def __init__(self, tree: ModuleTree, layer_attr: str, given: bool):
        self.tree = tree
        self.layer_attr = layer_attr
        self._all_forms: dict[str, str] | None = None
        self.container = self._own_container() if not given else None
        self.container = self.container or self._find_container(layer_attr)
        if given and self.container is None:
            raise self.no_layers()

    def _own_container(self) -> str | None:
        """The list that the model itself calls its layers: mlx-lm's models have such a property."""
        own = getattr(self.tree.root, "layers", None)
        if not isinstance(own, (list, tuple)) or not own:
            return None
        for path, container in self.tree.containers.items():
            if isinstance(container, (list, tuple)) and len(container) == len(own):
                if all(a is b for a, b in zip(container, own, strict=True)):
                    return path
        return None

    def _find_container(self, attr: str) -> str | None:
        """The shortest path that ends in `attr` and holds modules."""
        found = [
            path
            for path, container in self.tree.containers.items()
            if (path == attr or path.endswith("." + attr)) and isinstance(container, (list, tuple))
        ]
        found += [
            path
            for path, module in self.tree.modules.items()
            if (path == attr or path.endswith("." + attr)) and _numbered(module)
        ]
        return min(found, key=lambda path: (path.count("."), len(path)), default=None)

    def no_layers(self) -> LayersError:
        """The error for a model without a layer container of this name."""
        lists = [p for p, c in self.tree.containers.items() if isinstance(c, (list, tuple))]
        hint = f" It has lists of modules at: {', '.join(lists)}." if lists else ""
        return LayersError(
            f"the model has no list of layers named {self.layer_attr!r}.{hint}\n"
            f"  Write InterpretableModel(model, layer_attr={(lists or ['h'])[0]!r})."
        )

    def known(self) -> list[str]:
        """Every canonical path."""
        return [path for path in self.tree.modules if path] + list(self.tree.aliases)

    def spoken(self) -> list[str]:
        """The names that people write: relative to the layers first, then canonical."""
        paths = [path for path in self.tree.modules if path]
        inside = f"{self.container}."
        short = [f"layers.{p[len(inside) :]}" for p in paths if p.startswith(inside)]
        return [*short, *(p for p in paths if p not in short), MODEL_OUTPUT]

    def exists(self, path: str) -> bool:
        """Whether a canonical path (or a shared module's other path) is a module."""
        return path in self.tree.modules or path in self.tree.aliases

    def sites(self, name: Any, may_be_none: bool = False) -> list[NamedSite]:
        """The sites that a name or pattern means, in tree order: the one reader of names.

        Args: name: of a module, with its call and port or without them; a pattern; a handle.
        Raises: UnknownSiteError where it means none, SiteNameError for what is no name.
        """
        text = site_text(name)
        parts = taken_apart(text)
        found: list[str] = []
        if parts.port and not parts.numbered:  # a module may be called as a port is
            found = self._paths(text)
            parts = parts if not found else SiteName(text, 0, "")
        found = found or self._paths(parts.module) or self._inside(parts.module)
        if not found:
            named = self._at_stream(parts)
            if named or may_be_none:
                return named
            raise self._unknown(text, parts.module)
        port = OUTPUT if parts.port in ("", OUTPUT) else INPUTS
        first = parts.port == "input"
        return [NamedSite(self._site(path, port, parts), first) for path in found]

    def _site(self, path: str, port: str, parts: SiteName) -> Site:
        if not parts.numbered and self._of_shared(path):
            return Site(path, port, BY_NAME)
        return Site(self.canonical_path(path), port, parts.call)

    def _at_stream(self, parts: SiteName) -> list[NamedSite]:
        """The residual stream at the layers that a name or pattern means (`graph.stream`)."""
        owner, _, name = parts.module.rpartition(".")
        if name not in STREAM or parts.port not in ("", OUTPUT):
            return []
        layers = [path for path in self._paths(owner) if is_layer(path)]
        if name == RESID_MID:
            layers = [below(path, name) for path in layers]
        port = INPUTS if name == RESID_PRE else OUTPUT
        first = name != RESID_MID
        return [NamedSite(self._site(path, port, parts), first, name) for path in layers]

    def _inside(self, name: str) -> list[str]:
        """The paths of the sites inside modules that a name or pattern means: which module, is
        told here, and what its forward computes by a census."""
        inside = parted(name)
        if inside is None or is_middle(name):
            return []
        paths = self._paths(inside[0])
        if inside[1].startswith(OPS):
            taken = with_own_ops(self.tree)
            paths = [path for path in paths if path not in taken]
        return [below(path, inside[1]) for path in paths]

    def _of_shared(self, path: str) -> bool:
        if path in self.tree.shared:
            return True
        inside = None if self.exists(path) else parted(path)
        return inside is not None and inside[0] in self.tree.shared

    def canonical_path(self, path: str) -> str:
        """The first of a shared module's paths, also before what follows it."""
        inside = None if self.exists(path) else parted(path)
        if inside is None:
            return self.tree.aliases.get(path, path)
        return below(self.tree.aliases.get(inside[0], inside[0]), inside[1])

    def site(self, name: Any) -> NamedSite:
        """The one site that a name means.  Raises: UnknownSiteError, SiteNameError for several."""
        text = site_text(name)
        found = self.sites(text)
        if len(found) > 1:
            one = f"one of the {len(found)} names that it matches, such as {found[0].name!r}"
            raise SiteNameError(text, one)
        return found[0]

    def _unknown(self, text: str, module: str) -> UnknownSiteError:
        """The error for a name or pattern that means nothing, in the words of the model."""
        known = [path for path in self.tree.modules if path]
        if is_pattern(text):
            inside = f"{self.container}."
            short = not text.startswith(ROOT_PREFIX) and self.container is not None
            known = [p.replace(inside, "layers.", 1) if short else p for p in known]
            known = [_NUMBER.sub("*", form) for form in known]
        kind = "module that matches" if is_pattern(text) else "module"
        owner, _, last = text.rpartition(".")
        if owner and self._paths(owner):
            known += [f"{owner}.{value}" for value in get_close_matches(last, ATTENTION, 1, 0.75)]
        near: list[str] = []
        advice = self._several(module)
        if f".{OPS}." in text and is_pattern(text.rpartition(f".{OPS}.")[2]):
            advice = "An operation goes by its own name: module.ops lists them."
        if not advice:
            advice, near = self._range(module)
        if not advice and self.tree.stage:
            advice, near = self.tree.stage, []
        return UnknownSiteError(
            text, known, kind=kind, advice=advice, near=near if advice else None
        )

    def _several(self, name: str) -> str:
        """What to write, where a name is that of a list or dict of modules."""
        own = {self.container} if name in ("layers", self.layer_attr) else set()
        for path in [*self._candidates(name), *own]:
            if path in self.tree.containers:
                first = next((p for p in self.known() if p.startswith(f"{path}.")), f"{path}.0")
                short = "layers" if path == self.container else path
                one = first.replace(path, short, 1)
                return f"It is several modules. Write '{short}.*' for them all, or '{one}' for one."
        return ""

    def _range(self, name: str) -> tuple[str, list[str]]:
        """What numbers there are, where a name asks for one that is not there; and the name with
        one that is."""
        for candidate in self._candidates(name):
            path, parts = "", split(candidate)
            for at, part in enumerate(parts):
                count = len(self.tree.containers.get(path, ()))
                asked = [int(part)] if _NEGATIVE.fullmatch(part) else numbers_of(part)
                if count and asked and (min(asked) >= count or asked[0] < 0):
                    there, last = numbered(self.kind_of(path), count), count - 1
                    if asked[0] < 0:
                        advice, there_is = "names count from 0", max(count + asked[0], 0)
                    else:
                        advice, there_is = f"[0-{last}] means them all", last
                    own = split(name)
                    own[at - len(parts)] = f"[0-{last}]" if is_pattern(part) else str(there_is)
                    meant = ".".join(own)
                    found = self._paths(meant)
                    near = [meant] if found and is_pattern(meant) else found
                    return f"The model has {there}, and {advice}.", near
                path = f"{path}.{asked[0] if asked else part}" if path else part
        return "", []

    def kind_of(self, container: str) -> str:
        """What the modules of a container are called: `layers`, whatever the model says."""
        last = container.rpartition(".")[2]
        return last if last.endswith("s") and container != self.container else "layers"

    def canonical(self, name: Any) -> str:
        """The canonical path of a module, from any form of its name."""
        return self.site(name).site.path

    def _paths(self, name: str) -> list[str]:
        """The canonical paths of the modules that a name or pattern means."""
        if is_pattern(name):
            return matches(name, self._forms())
        if name in (MODEL_OUTPUT, ""):
            return [""]
        for candidate in self._candidates(name):
            path = self._walk(candidate)
            if path is not None:
                return [path]
        return [""] if name == ROOT else []

    def _forms(self) -> dict[str, str]:
        """Every form of every module's name -> its canonical path."""
        if self._all_forms is None:
            self._all_forms = forms = {}
            for path in (*self.tree.modules, *self.tree.aliases):
                if path:
                    for form in self._relative(path):
                        forms[form] = path
        return self._all_forms

    def _relative(self, path: str) -> list[str]:
        forms = [path]
        if self.container is not None and path.startswith(self.container + "."):
            rest = path[len(self.container) + 1 :]
            forms += [f"{attr}.{rest}" for attr in dict.fromkeys((self.layer_attr, "layers"))]
            block, _, inner = rest.partition(".")
            for alias in ALIASES if inner else ():
                called = self.alias(f"{self.container}.{block}", alias)
                part = (called or "").rpartition(".")[2]
                if called and (inner == part or inner.startswith(part + ".")):
                    tail = f"{block}.{alias}{inner[len(part) :]}"
                    forms += [f"{self.container}.{tail}", f"layers.{tail}"]
        return forms + [f"{ROOT_PREFIX}{form}" for form in forms]

    def _candidates(self, name: str) -> list[str]:
        names = [name]
        if name.startswith(ROOT_PREFIX):
            names.append(name[len(ROOT_PREFIX) :])
        if self.container is not None:
            for candidate in list(names):
                for attr in (self.layer_attr, "layers", self.container.rpartition(".")[2]):
                    if candidate.startswith(attr + "."):
                        names.append(f"{self.container}.{candidate[len(attr) + 1 :]}")
        return names

    def _walk(self, name: str) -> str | None:
        """`name` with its aliases resolved part by part, if it leads to a module."""
        if self.exists(name):  # whatever its keys are: one may hold a dot
            return name
        path = ""
        for part in name.split("."):
            below = f"{path}.{part}" if path else part
            if self.exists(below) or below in self.tree.containers:
                path = below
                continue
            alias = self.alias(path, part)
            if alias is None:
                return None
            path = alias
        return path if self.exists(path) else None

    def alias(self, path: str, part: str) -> str | None:
        """What a block at `path` calls its `attn` or `mlp`."""
        if not path.rpartition(".")[2].isdigit():
            return None
        for name in ALIASES.get(part, ()):
            if self.exists(f"{path}.{name}"):
                return f"{path}.{name}"
        return None


def with_own_ops(tree: ModuleTree) -> frozenset[str]:
    """The modules that have a part of their own that is called `ops`: it wins."""
    names = (*tree.modules, *tree.containers, *tree.aliases)
    end = f".{OPS}"
    found = {name.removesuffix(end) for name in names if name.endswith(end)}
    return frozenset(found | ({""} if OPS in names else set()))


def _numbered(module: object) -> bool:
    return isinstance(module, dict) and "0" in module
