"""Pictures of graphs: well-formed whatever the names in them are."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxgraph.graph.deferred import Read
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import NUMBER, Node, site_node
from mlxgraph.graph.picture import drawing, html
from mlxgraph.graph.site import Site
from tests.graph.fakes import small_graph

NASTY = [
    'a"b', "a\\", '\\"', "<script>alert(1)</script>", "&lt;", "]) --> x", "%%{init}%%", "a\nb",
    "`x`", "$$x$$", "end", "#35;", "{{x}}", "|x|", "\x1b[31m", "\u00e9\u4e2d", "--", ";",
    "]]>", "'",
]  # fmt: skip


def named(name: str) -> Graph:
    """A graph in which everything that can have a name has this one."""
    node = Node("mx.add", (site_node(name), name), ((name, 1),))
    inner = Graph([(Site(name), Node(NUMBER, (0, "int")))], constants=[3])
    steps = [Read(name, name, where=name), inner, Read(name)]
    return Graph([(Site(name), node)], [(name, node)], then=steps)


def names_of(graph: Graph) -> tuple[set[str], set[tuple[str, str]]]:
    """The boxes and arrows that a picture must have."""
    groups = list(drawing(graph).walk())
    boxes = {box.key for group in groups for box in group.boxes}
    return boxes, {arrow for group in groups for arrow in [*group.arrows, *group.then]}


# -- Mermaid ---------------

MERMAID_LINE = re.compile(
    r"""
    flowchart\ TD
    | \s* \w+ (?: \(\[ | \[\[ | \[ | \( | \{\{ ) "(?P<label>[^"<>`%&\[\]{}|\\;]*?(?:(?:\#\d+;|<br/>)
        [^"<>`%&\[\]{}|\\;]*?)*)" (?: \]\) | \]\] | \] | \) | \}\} )
    | \s* \w+ \ (?: --> | -\.-> ) \ \w+
    | \s* subgraph \ \w+\["\ "\]
    | \s* end
    | \s* classDef \ \w+ \ fill:\#\w{6},stroke:\#\w{6},color:\#\w{6}
    | \s* class \ [\w,]+ \ \w+
    """,
    re.VERBOSE,
)


def mermaid_parts(text: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Boxes and arrows of a flowchart; fails on a line that is none of Mermaid's."""
    boxes, arrows, depth = set(), set(), 0
    for line in text.split("\n"):
        assert MERMAID_LINE.fullmatch(line), line
        depth += line.strip().startswith("subgraph ") - (line.strip() == "end")
        if found := re.fullmatch(r"\s*(\w+) (?:-->|-\.->) (\w+)", line):
            arrows.add(found.groups())
        elif found := re.match(r'\s*(\w+)[(\[{]+"', line):
            boxes.add(found[1])
    assert depth == 0
    return boxes, arrows


@pytest.mark.parametrize("name", ["plain", *NASTY])
def test_mermaid_is_well_formed(name):
    assert mermaid_parts(named(name).to_mermaid()) == names_of(named(name))


def test_mermaid_looks_like_this():
    lines = Graph([(Site("a"), Node("mx.exp", (site_node("a"),)))]).to_mermaid().split("\n")
    assert lines[:6] == [
        "flowchart TD",
        '  g_n0(["#37;0 = a.output"])',
        '  g_n1["#37;1 = exp(#37;0)"]',
        '  g_r0[["write a.output"]]',
        "  g_n0 --> g_n1",
        "  g_n1 --> g_r0",
    ]


# -- DOT ---------------

DOT_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([A-Za-z_]\w*)|(->|[{}\[\]=;,]))')


def dot_parts(text: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Boxes and arrows of a digraph, by a small parser of the language."""
    tokens = []
    at = 0
    while text[at:].strip():
        found = DOT_TOKEN.match(text, at)
        assert found, text[at : at + 40]
        tokens.append(found[1] or found[2] or found[3])
        at = found.end()
    assert tokens[0] == "digraph" and tokens[2] == "{" and tokens.pop() == "}"
    boxes, arrows = set(), set()
    _statements(tokens[3:], boxes, arrows)
    return boxes, arrows


def _statements(tokens: list[str], boxes: set, arrows: set) -> None:
    depth = 0
    while tokens:
        word = tokens.pop(0)
        if word == "}":
            depth -= 1
            continue
        if word == "subgraph":
            assert re.fullmatch(r"\w+", tokens.pop(0)) and tokens.pop(0) == "{"
            depth += 1
            continue
        assert re.fullmatch(r"\w+", word)
        if tokens[0] == "->":
            arrows.add((word, tokens[1]))
            del tokens[:2]
        elif tokens[0] == "[" and word not in ("graph", "node", "edge"):
            boxes.add(word)
        if tokens[0] == "[":
            tokens.pop(0)
            while True:
                key, equals, value = tokens[:3]
                assert re.fullmatch(r"\w+", key) and equals == "=" and value[0] == '"'
                del tokens[:3]
                if tokens.pop(0) == "]":
                    break
        elif tokens[0] == "=":
            assert tokens[1][0] == '"'
            del tokens[:2]
        assert tokens.pop(0) == ";"
    assert depth == 0


@pytest.mark.parametrize("name", ["plain", *NASTY])
def test_dot_is_well_formed(name):
    assert dot_parts(named(name).to_dot()) == names_of(named(name))


def test_dot_says_what_the_listing_says():
    dot = small_graph().to_dot()
    assert r'label="%4 = update(%0, [:, -1], %3)\n(1, 2, 3) float32"' in dot
    assert dot.count("->") == len(names_of(small_graph())[1]) == 10


# -- HTML ---------------


class Page(HTMLParser):
    """Collects tags and texts, and fails where tags do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1] += data


@pytest.mark.parametrize("name", ["plain", *NASTY])
def test_html_is_well_formed_and_runs_nothing(name):
    page = Page(named(name)._repr_html_())
    assert page.tags <= set("style div strong table thead tbody tr th td code".split())
    assert page.attributes <= {"class"}


def test_html_says_what_the_listing_says():
    cells = Page(small_graph()._repr_html_()).cells
    at = cells.index("%4")
    assert cells[at : at + 4] == ["%4", "update(%0, [:, -1], %3)", "(1, 2, 3) float32", "a.py:4"]
    assert cells[-8:-6] == ["save", "'odd' <- %5"]


def test_html_asks_nothing_of_the_net_and_sets_no_colour_of_text_or_page():
    text = small_graph()._repr_html_()
    assert "http" not in text and "url(" not in text and "<script" not in text
    style = text[text.index("<style>") : text.index("</style>")]
    colours = re.findall(r"(?<![-\w])(?:color|background): ([^;]+);", style)
    assert colours and set(colours) <= {"inherit", "transparent"}


def test_of_a_long_graph_html_leaves_the_middle_out():
    node = site_node("a")
    for _ in range(100):
        node = Node("mx.add", (node, 1))
    graph = Graph([(Site("a"), node)])
    assert html(graph, most=10).count("<tr class") == 10 + 1 + 1
    assert "... 91 more ..." in html(graph, most=10)
    assert html(graph).count("<tr class") == 101 + 1


# -- any text at all ---------------


@given(st.text(max_size=12))
def test_any_name_leaves_every_picture_well_formed(name):
    graph = named(name)
    assert mermaid_parts(graph.to_mermaid()) == names_of(graph)
    assert dot_parts(graph.to_dot()) == names_of(graph)
    Page(graph._repr_html_())
