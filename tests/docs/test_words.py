"""The dictionary is in order, and the pages keep to the field's words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
WORDS = (ROOT / "docs" / "words.md").read_text()
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.ipynb")]
    + [ROOT / "benchmarks" / "README.md", ROOT / "mlxgraph" / "tiny" / "README.md"]
)
INSTEAD = {  # what is not written -> what is
    r"hundredths": "1–4 %",
    r"(?<!\d)\d+ to \d+ %": "1–4 %",
    r"head width|width of a head": "head dimension",
    r"likeliest|most likely token": "top prediction",
    r"compile[sd]? anew|never recompile": "never triggers recompilation",
    r"is double|are double|twice over": "duplicates",
    r"rewrite pass|passes that simplify": "a rewrite",
    r"the lobby": "the room's name",
}


def words() -> list[str]:
    return re.findall(r"^\| \*\*(.+?)\*\* \|", WORDS, flags=re.M)


def test_the_words_are_in_order_and_each_is_there_once() -> None:
    found = [word.lower().replace("-", " ") for word in words()]
    assert len(found) > 40
    assert found == sorted(set(found))


def test_every_word_is_one_line() -> None:
    rows = [line for line in WORDS.splitlines() if line.startswith("| **")]
    assert [row for row in rows if len(row) > 220] == []


def _text(page: Path) -> str:
    """What a person reads: of a notebook, its cells."""
    text = page.read_text()
    if page.suffix != ".ipynb":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def strangers(text: str) -> list[str]:
    """What the pages do not say, each with what they say instead."""
    return [
        f"{match[0]!r}: write {instead}"
        for pattern, instead in INSTEAD.items()
        for match in re.finditer(pattern, text, flags=re.I)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_pages_keep_to_the_fields_words(page: Path) -> None:
    assert strangers(_text(page)) == []


@pytest.mark.parametrize(
    "text",
    ["one to four hundredths", "1 to 4 %", "(heads, head width)", "the likeliest token",
     "new values never compile anew", "what is double is merged", "in the lobby"],
)  # fmt: skip
def test_another_word_is_caught(text: str) -> None:
    assert strangers(f"A page: {text}.")
