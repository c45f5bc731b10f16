"""Draw the rooms of the house from its imports: `python docs/rooms.py`.

In: the package's files, whose imports (those for types alone too) are read and not run, and the
floors that `tests/test_floors.py` keeps.  Out: `docs/images/rooms.svg`, the same text every time.
An arrow that follows from others is left out: of `trace -> record -> graph` and `trace -> graph`,
the second.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "rooms.svg"
sys.path.insert(0, str(ROOT))

from tests.test_floors import FLOORS, PACKAGE, imports, modules, parsed, room  # noqa: E402

WIDTH = 900  # what a page of Markdown shows without scaling down, more or less
MARGIN, RIGHT, BOX, GAP, LANE = 62, 14, 232, 20, 10
BETWEEN = 38  # from one floor to the next, for the arrows
TITLE, SMALL, LINE = 15, 11, 14
CHARACTERS = 34  # of the small print, in one line of a box
FILL, EDGE, INK, PALE = "#f8fafc", "#475569", "#0f172a", "#64748b"
SWEEPS = 60

Link = tuple[str, str]


class Room(NamedTuple):
    """One room: what it is for, and the files in it."""

    name: str
    purpose: str
    files: tuple[str, ...]


class Box(NamedTuple):
    """Where something stands: a room, or the lane of an arrow that passes a floor."""

    x: float
    y: float
    width: float
    height: float


# -- what there is ---------------------------------------------------------------------------------


def rooms(root: Path = ROOT) -> dict[str, Room]:
    """The rooms by name, each with its files."""
    files: dict[str, list[str]] = {}
    purposes: dict[str, str] = {}
    for module, path in modules(root).items():
        name = room(module)
        parts = path.relative_to(root / PACKAGE).parts
        if parts in ((name, "__init__.py"), (f"{name}.py",), ("__init__.py",)):
            purposes[name] = _purpose(path)
        elif len(parts) > 1:
            files.setdefault(name, []).append(parts[1].removesuffix(".py"))
    return {
        name: Room(name, purposes[name], tuple(dict.fromkeys(files.get(name, ()))))
        for name in FLOORS
        if name in purposes
    }


def _purpose(path: Path) -> str:
    """The first sentence of a docstring, up to its colon; after it, where one word leads."""
    text = " ".join((ast.get_docstring(parsed(path.read_text())) or "").split())
    head, _, tail = text.split(". ")[0].rstrip(".").partition(": ")
    said = (head if " " in head or not tail else tail).replace("`", "").replace("->", "→")
    return said[:1].upper() + said[1:]


def links(root: Path = ROOT) -> dict[Link, bool]:
    """`(who, whom)` for the imports between rooms, and whether they are for types alone."""
    here = modules(root)
    found: dict[Link, bool] = {}
    for module, path in here.items():
        for name, _, types in imports(module, path.read_text(), set(here)):
            link = (room(module), room(name)) if name in here else ("", "")
            if link[0] != link[1]:
                found[link] = types and found.get(link, True)
    return found


def needed(found: Mapping[Link, bool]) -> list[Link]:
    """The links that do not follow from others."""
    below: dict[str, set[str]] = {}

    def reach(name: str) -> set[str]:
        if name not in below:
            below[name] = set()
            next_ones = {b for a, b in found if a == name}
            below[name] = next_ones.union(*map(reach, sorted(next_ones)))
        return below[name]

    return sorted(
        (a, b)
        for a, b in found
        if not any((a, c) in found and b in reach(c) for c in FLOORS if c != b)
    )


# -- where it goes ---------------------------------------------------------------------------------


def levels(names: Iterable[str], arrows: Iterable[Link]) -> tuple[list[list[str]], list[list[str]]]:
    """The rows from the top, and each arrow as the items that it passes, row by row.

    An arrow that goes further than to the next row gets an item of its own in each row between.
    """
    floors = sorted({FLOORS[name] for name in names}, reverse=True)
    rows = [[name for name in names if FLOORS[name] == floor] for floor in floors]
    at = {name: k for k, row in enumerate(rows) for name in row}
    paths = []
    for a, b in arrows:
        between = [f"{a}>{b}@{k}" for k in range(at[a] + 1, at[b])]
        for k, item in enumerate(between, start=at[a] + 1):
            rows[k].append(item)
        paths.append([a, *between, b])
    return rows, paths


def ordered(rows: list[list[str]], paths: list[list[str]]) -> list[list[str]]:
    """Each row put in the order in which the fewest arrows cross."""
    pairs = [pair for path in paths for pair in zip(path, path[1:], strict=False)]
    best, fewest = rows, _crossings(rows, pairs)
    for sweep in range(SWEEPS):
        rows = [list(row) for row in rows]
        down = sweep % 2 == 0
        for row in rows[1:] if down else rows[-2::-1]:
            index = {name: k / len(r) for r in rows for k, name in enumerate(r)}
            near = _neighbours(pairs, down)
            place = {n: _mean([index[m] for m in near.get(n, [])], index[n]) for n in row}
            row.sort(key=lambda name, place=place: (place[name], name))
        crossings = _crossings(rows, pairs)
        if crossings < fewest:
            best, fewest = rows, crossings
    return best


def _neighbours(pairs: list[Link], above: bool) -> dict[str, list[str]]:
    near: dict[str, list[str]] = {}
    for a, b in pairs:
        one, other = (b, a) if above else (a, b)
        near.setdefault(one, []).append(other)
    return near


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _crossings(rows: list[list[str]], pairs: list[Link]) -> int:
    index = {name: k for row in rows for k, name in enumerate(row)}
    row_of = {name: k for k, row in enumerate(rows) for name in row}
    return sum(
        row_of[a] == row_of[c] and (index[a] - index[c]) * (index[b] - index[d]) < 0
        for k, (a, b) in enumerate(pairs)
        for c, d in pairs[:k]
    )


def placed(
    rows: list[list[str]], paths: list[list[str]], found: Mapping[str, Room]
) -> dict[str, Box]:
    """A box for every item, as near to above its neighbours as the row has room."""
    pairs = [pair for path in paths for pair in zip(path, path[1:], strict=False)]
    near = _neighbours(pairs, True)
    for name, others in _neighbours(pairs, False).items():
        near.setdefault(name, []).extend(others)
    near.update(
        {lane: path for path in paths for lane in path[1:-1]}
    )  # a lane wants to be straight
    x: dict[str, float] = {}
    for row in rows:
        step = (WIDTH - MARGIN - RIGHT) / len(row)
        x.update({name: MARGIN + step * (k + 0.5) for k, name in enumerate(row)})
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 else rows[::-1]:
            wanted = [_mean([x[m] for m in near.get(name, [])], x[name]) for name in row]
            x.update(zip(row, _spread(wanted, [_width(n, found) for n in row]), strict=True))
    boxes, y = {}, 16.0
    for row in rows:
        height = max(_height(found[name]) for name in row if name in found)
        for name in row:
            width = _width(name, found)
            boxes[name] = Box(x[name] - width / 2, y, width, height)
        y += height + BETWEEN
    return boxes


def _width(name: str, found: Mapping[str, Room]) -> float:
    return BOX if name in found else LANE


def _lines(one: Room) -> tuple[list[str], list[str]]:
    """What is printed in a room below its name."""
    return (
        textwrap.wrap(one.purpose, CHARACTERS),
        textwrap.wrap("\u00a0· ".join(one.files), CHARACTERS),
    )


def _height(one: Room) -> float:
    return TITLE + 18 + LINE * sum(map(len, _lines(one)))


def _spread(wanted: list[float], widths: list[float]) -> list[float]:
    """Centres nearest to the wanted ones such that nothing overlaps and all is on the page."""
    offsets = [0.0]
    for one, other in zip(widths, widths[1:], strict=False):
        offsets.append(offsets[-1] + (one + other) / 2 + GAP)
    blocks: list[tuple[float, int]] = []  # a mean, and how many it stands for
    for want, offset in zip(wanted, offsets, strict=True):
        mean, count = want - offset, 1
        while blocks and blocks[-1][0] >= mean:
            before, size = blocks.pop()
            mean = (before * size + mean * count) / (size + count)
            count += size
        blocks.append((mean, count))
    least = MARGIN + widths[0] / 2
    most = WIDTH - RIGHT - widths[-1] / 2 - offsets[-1]
    flat = [min(max(mean, least), max(most, least)) for mean, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(flat, offsets, strict=True)]


# -- the picture -----------------------------------------------------------------------------------


def svg(root: Path = ROOT) -> str:
    """The whole picture."""
    found, joined = rooms(root), links(root)
    arrows = needed(joined)
    rows, paths = levels(found, arrows)
    rows = ordered(rows, paths)
    boxes = placed(rows, paths, found)
    height = max(box.y + box.height for box in boxes.values()) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}"'
        f' width="{WIDTH}" height="{height:.0f}" role="img"'
        ' font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif">',
        "<title>The rooms of mlxgraph, floor by floor, and who imports whom</title>",
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
    ]
    for row in rows:
        (box,) = {boxes[name] for name in row if name == next(n for n in row if n in found)}
        parts += _floor(FLOORS[next(n for n in row if n in found)], box)
    for path in paths:
        parts += _arrow(path, paths, boxes, joined[path[0], path[-1]])
    parts += [line for name in found for line in _room(found[name], boxes[name])]
    return "\n".join([*parts, "</svg>", ""])


def _floor(number: int, box: Box) -> list[str]:
    middle = box.y + box.height / 2
    return [
        f'<rect x="0" y="{box.y - 8:.1f}" width="{WIDTH}" height="{box.height + 16:.1f}"'
        ' fill="#eef2f7"/>',
        f'<text x="10" y="{middle + 4:.1f}" font-size="{SMALL}" fill="{PALE}">'
        f"floor {number}</text>",
    ]


def _room(one: Room, box: Box) -> list[str]:
    said = {"facade": "__init__.py", "cli": "cli/, __main__.py"}
    name = said.get(one.name, one.name + ("/" if one.files else ".py"))
    left, y = box.x + 12, box.y + TITLE + 6
    parts = [
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
        f' rx="6" fill="{FILL}" stroke="{EDGE}"/>',
        f'<text x="{left:.1f}" y="{y:.1f}" font-size="{TITLE}" font-weight="bold"'
        f' fill="{INK}">{escape(name)}</text>',
    ]
    purpose, files = _lines(one)
    for text, colour in [(line, INK) for line in purpose] + [(line, PALE) for line in files]:
        y += LINE
        parts.append(
            f'<text x="{left:.1f}" y="{y:.1f}" font-size="{SMALL}" fill="{colour}">'
            f"{escape(text)}</text>"
        )
    return parts


def _arrow(
    path: list[str], paths: list[list[str]], boxes: Mapping[str, Box], types: bool
) -> list[str]:
    """A line from a room down to another, through the lanes that were kept for it."""
    ends = [_port(path, paths, boxes, 0), _port(path, paths, boxes, -1)]
    points = [(ends[0], boxes[path[0]].y + boxes[path[0]].height)]
    for name in path[1:-1]:
        box = boxes[name]
        centre = box.x + box.width / 2
        points += [(centre, box.y - 8), (centre, box.y + box.height + 8)]
    points.append((ends[1], boxes[path[-1]].y - 7))
    steps = [f"M {points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x, y), (to_x, to_y) in zip(points, points[1:], strict=False):
        middle = (y + to_y) / 2
        steps.append(f"C {x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
    x, y = points[-1]
    dashes = ' stroke-dasharray="5 4"' if types else ""
    return [
        f'<path d="{" ".join(steps)}" fill="none" stroke="{EDGE}" stroke-width="1.4"{dashes}/>',
        f'<path d="M {x - 4:.1f} {y - 1:.1f} L {x + 4:.1f} {y - 1:.1f} L {x:.1f} {y + 7:.1f} Z"'
        f' fill="{EDGE}"/>',
    ]


def _port(path: list[str], paths: list[list[str]], boxes: Mapping[str, Box], end: int) -> float:
    """Where on a room's edge an arrow begins or ends: side by side with the others there."""
    name = path[end]
    inner = 1 if end == 0 else -2
    here = sorted(
        (other for other in paths if other[end] == name),
        key=lambda other: (boxes[other[inner]].x + boxes[other[inner]].width / 2, other),
    )
    box = boxes[name]
    return box.x + box.width * (here.index(path) + 1) / (len(here) + 1)


if __name__ == "__main__":
    PICTURE.write_text(svg())
