"""The table of methods shows the numbers that the page's blocks print, which are run elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.blocks import blocks

PAGE = (Path(__file__).parent.parent.parent / "docs" / "methods.md").read_text()


def shown(page: str) -> dict[str, str]:
    """The second cell of each row, by the method that the first one links to."""
    rows = re.findall(r"^\| \[(.+?)\]\(#.+?\) \| (.+?) \|", page, flags=re.M)
    plain = {method.replace("\\", ""): numbers for method, numbers in rows}
    return {method: cell.replace("\N{MINUS SIGN}", "-") for method, cell in plain.items()}


def printed(page: str) -> dict[str, str]:
    """What the blocks print of each method by `beside`."""
    outputs = "\n".join(block.output or "" for block in blocks(page))
    return dict(re.findall(r"^([\w *]+): ([-\d. ]+)$", outputs, flags=re.M))


def test_every_row_of_the_table_has_the_numbers_that_its_block_prints() -> None:
    assert len(shown(PAGE)) > 10
    assert shown(PAGE) == printed(PAGE)


def test_another_number_in_the_table_or_a_row_without_a_block_is_caught() -> None:
    assert shown(PAGE.replace("| 5.000 80.000 |", "| 5.000 81.000 |")) != printed(PAGE)
    assert shown(PAGE) != printed(PAGE.replace("\nablation: ", "\nsomething else: "))
