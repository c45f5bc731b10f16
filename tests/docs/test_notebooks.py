"""The notebooks run, cell by cell, and say what their stored outputs say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent
LONG = {"where_a_fact_lives"}
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)\)")
NOTEBOOKS = sorted(ROOT.glob("docs/*.ipynb"))
NUMBER = re.compile(r"[-\N{MINUS SIGN}]?\d[\d.,e-]*")


def said(cells: Any) -> list[str]:
    """What the cells of a notebook print and show, without its last digits and its pictures."""
    texts = []
    for cell in cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stdout":
                texts.append(output["text"])
            elif "text/plain" in output.get("data", {}) and "image/png" not in output["data"]:
                texts.append(output["data"]["text/plain"])
    return [NUMBER.sub("#", "".join(text)) for text in texts]


@pytest.mark.parametrize(
    "notebook",
    [  # a long one is run by `make sweep`
        pytest.param(path, marks=pytest.mark.slow) if path.stem in LONG else path
        for path in NOTEBOOKS
    ],
    ids=lambda path: path.stem,
)
def test_every_cell_of_the_notebook_runs(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the kernel is a process of its own
    cells = nbformat.read(notebook, as_version=4)
    kept = said(cells.cells)
    assert kept, "a notebook is kept with its outputs"
    client = NotebookClient(cells, timeout=120, kernel_name="python3", coalesce_streams=True)
    client.execute()
    # its words are about what it shows: which layer, which answer, True or False
    assert " ".join(" ".join(said(cells.cells)).split()) == " ".join(" ".join(kept).split())


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_link_of_the_notebook_leads_somewhere(notebook: Path) -> None:
    cells = nbformat.read(notebook, as_version=4).cells
    links = [link for cell in cells for link in LINK.findall(cell["source"])]
    assert links, "a notebook says where to read on"
    assert [link for link in links if not (notebook.parent / link).exists()] == []


def test_another_answer_in_an_output_is_another_text() -> None:
    def cell(text: str) -> dict[str, Any]:
        return {"outputs": [{"name": "stdout", "text": text}]}

    assert said([cell("Paris 0.998\n")]) == said([cell("Paris 0.997\n")])
    assert said([cell("Paris 0.998\n")]) != said([cell("London 0.998\n")])
