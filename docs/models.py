"""Write the page of architectures from what is seen: `python docs/models.py`.

In: every model file of the installed mlx-lm, as a tiny model with random weights.  Out: a table,
`docs/models.md`, the same text every time.  A wrong number is an error here, and no row.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "models.md"
sys.path.insert(0, str(ROOT))

from tests.architectures import configs, states  # noqa: E402
from tests.architectures.states import BUT, CAPABILITIES, REFUSES, WORKS, Row, State  # noqa: E402

HEAD = """# Architectures

What mlxgraph does on every model file of mlx-lm {version}, each built small, with random weights,
and tried. Nothing in mlxgraph knows their names: a file that mlx-lm adds is found as these were.
`python docs/models.py` writes this page; `make sweep` tries everything again and compares.

| | |
|---|---|
{meanings}

A cell says **yes**; **yes, but** with a number, for a remark below; or **no** with a number, for
the reason that the error gives. There is no fourth state: a wrong number ends the writing.

Layers, `attn`, `mlp`, embedding, final norm and head are the names under which they were found.
Several names are those of the blocks of a hybrid; a dash says that there is none, and `tied` that
the embedding's matrix is the head.

"""

NOT_TRIED = """
## Not tried

| | |
|---|---|
{rows}
"""


def page(rows: Sequence[Row]) -> str:
    """The whole page."""
    meanings = "\n".join(
        f"| {name} | {(check.__doc__ or '').strip().split(chr(10))[0]} |"
        for name, check in CAPABILITIES.items()
    )
    remarks = _remarks(rows)
    notes = "\n".join(f"{number}. {text}" for text, number in remarks.items())
    out = HEAD.format(version=version("mlx-lm"), meanings=meanings)
    out += "\n".join(_table(rows, remarks)) + "\n"
    out += f"\n{notes}\n" if notes else ""
    return out + NOT_TRIED.format(rows="\n".join(_not_tried()))


def _remarks(rows: Iterable[Row]) -> dict[str, int]:
    found = dict.fromkeys(s.remark for row in rows for s in row.states.values() if s.remark)
    return {text: number for number, text in enumerate(found, 1)}


def _table(rows: Sequence[Row], remarks: dict[str, int]) -> Iterable[str]:
    columns = ["model", *rows[0].names, *CAPABILITIES]
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield line(row, remarks)


def line(row: Row, remarks: dict[str, int]) -> str:
    """One row of the table."""
    names = [name if name in (states.NONE, "tied") else f"`{name}`" for name in row.names.values()]
    cells = [_cell(state, remarks) for state in row.states.values()]
    return "| " + " | ".join([row.name, *names, *cells]) + " |"


def _cell(state: State, remarks: dict[str, int]) -> str:
    said = {WORKS: "yes", BUT: "yes, but", REFUSES: "no"}[state.word]
    return f"{said} ({remarks[state.remark]})" if state.remark else said


WHY = {
    "bitnet": "its kernels need Metal, which this page was written without",
    "muse_spark": "its kernels need Metal, which this page was written without",
    "olmo": "it needs another package, ai2-olmo",
    "phi3small": "its forward masks out tokens beyond 100,000: there is no tiny model of it",
    "prism_hadamard_qwen35": "it takes packed weights alone",
}


def _not_tried() -> Iterable[str]:
    for name in states.architectures():
        if name not in configs.KNOWN.split():
            yield f"| {name} | {WHY.get(name, 'there is no tiny configuration of it yet')} |"


def tried() -> list[str]:
    """The model files that can be tried on this machine."""
    return [name for name in states.architectures() if name in configs.KNOWN.split()]


if __name__ == "__main__":
    PAGE.write_text(page([states.row(name) for name in tried()]))
