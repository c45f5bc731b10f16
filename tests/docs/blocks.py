"""Reads the code blocks of a Markdown page, with what the comments above them say.

In: a page's text.  Out: its python and sh blocks in order, each with its line, the output it
promises and the reason, if any, why it is not run.
Never: runs anything.

A comment stands alone on the line above a block (blank lines between do not count):

    <!-- skip: downloads a model -->     the block below is not run, and why
    <!-- raises: OrderError -->          the python block below raises this, by class name
    <!-- exits: 2 -->                    the sh block below ends with this status
    <!-- output -->                      the text block below is what the block above printed
    <!-- varies: depends on the seed --> the text block below is not compared, and why
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\s*$")
COMMENT = re.compile(r"^ *<!--\s*(?P<word>\w+)\s*(?::\s*(?P<rest>.*?))?\s*-->\s*$")
NEEDS_REASON = {"skip", "varies", "raises", "exits"}
RUN = ("python", "sh")
WORDS = {"python": {"skip", "raises"}, "sh": {"skip", "exits"}, "text": {"output", "varies"}}


class PageError(ValueError):
    """A page that the harness cannot take at its word."""


@dataclass
class Block:
    """One block that runs: `line` is that of its first line of code."""

    code: str
    line: int
    skip: str = ""
    raises: str = ""
    output: str | None = None
    language: str = "python"
    exits: str = ""


def blocks(text: str) -> list[Block]:
    """Every block of a page that runs.

    Raises: PageError for a comment without a reason or with an unknown word above a block, an
    unmarked output, an output that follows no block that runs, and a fence that never closes.
    """
    found: list[Block] = []
    after_code = False
    said: tuple[str, str] | None = None
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        fence, comment = FENCE.match(lines[at]), COMMENT.match(lines[at])
        if comment:
            said = (comment["word"], comment["rest"] or "")
        elif fence:
            language, start = fence["language"], at + 1
            at = _end(lines, start, fence["indent"])
            body = "\n".join(line[len(fence["indent"]) :] for line in lines[start:at])
            word, rest = _checked(said, language, start)
            if language in RUN:
                said_of_it = {word: rest} if word else {}
                found.append(Block(body, start + 1, language=language, **said_of_it))
            elif language == "text" and word == "output":
                if not after_code:
                    raise PageError(f"line {start}: output without a block above it that runs")
                found[-1].output = body
            elif language == "text" and after_code and not word:
                raise PageError(
                    f"line {start}: is this what the block above prints?  Write <!-- output --> "
                    "above it, or <!-- varies: why -->"
                )
            after_code, said = language in RUN, None
        elif lines[at].strip():
            said, after_code = None, False
        at += 1
    return found


def _end(lines: list[str], start: int, indent: str) -> int:
    for at in range(start, len(lines)):
        if lines[at] == f"{indent}```":
            return at
    raise PageError(f"line {start}: the block never ends")


def _checked(said: tuple[str, str] | None, language: str, line: int) -> tuple[str, str]:
    if said is None:
        return "", ""
    word, rest = said
    if language in WORDS and word not in WORDS[language]:
        raise PageError(f"line {line}: <!-- {word} --> says nothing about a {language} block")
    if word in NEEDS_REASON and not rest:
        raise PageError(
            f"line {line}: <!-- {word} --> without a reason; write <!-- {word}: ... -->"
        )
    return said
