"""The harness that runs the docs catches what it should: its own positive controls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import PageError, blocks
from tests.docs.test_pages import run_page

PAGE = """\
# A page

```python
x = 1
print(x)
```

<!-- output -->
```text
1
```

- in a list:

  <!-- skip: downloads a model -->
  ```python
  download()
  ```

<!-- raises: ZeroDivisionError -->
```python
x / 0
```

```bash
rm -rf nothing
```

```sh
echo "Hello  you" | cat > said.txt  # into a file
cat said.txt
```

<!-- output -->
```text
Hello  you
```

<!-- exits: 2 -->
```sh
mlxgraph lens \\
    tiny
```
"""


def test_blocks_come_with_their_lines_reasons_and_outputs() -> None:
    first, second, third, fourth, fifth = blocks(PAGE)
    assert (first.code, first.line, first.output) == ("x = 1\nprint(x)", 4, "1")
    assert (second.code, second.skip) == ("download()", "downloads a model")
    assert third.raises == "ZeroDivisionError"
    assert (fourth.language, fourth.output, fifth.exits) == ("sh", "Hello  you", "2")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- skip -->\n```python\n1\n```", "without a reason"),
        ("<!-- skip: -->\n```python\n1\n```", "without a reason"),
        ("<!-- ignore: me -->\n```python\n1\n```", "says nothing"),
        ("```python\n1\n```\n\n```text\n1\n```", "Write <!-- output -->"),
        ("<!-- output -->\n```text\n1\n```", "without a block above it"),
        ("```python\n1\n", "never ends"),
    ],
)
def test_a_page_that_hides_something_is_an_error(page: str, message: str) -> None:
    with pytest.raises(PageError, match=message):
        blocks(page)


def test_a_page_that_keeps_its_word_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_page(PAGE, "page.md")["x"] == 1


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (PAGE.replace("x = 1", "x = 2"), "page.md:4 printed"),
        (PAGE.replace("x / 0", "x / 1"), "page.md:22 did not raise"),
        (PAGE.replace("x / 0", "int('a')"), "page.md:22 raised ValueError"),
        (PAGE.replace("x = 1", "x = 1 / 0"), "page.md:4 raised ZeroDivisionError"),
        (PAGE.replace("cat said", "cat what"), "page.md:30 ended with status 1"),
        (PAGE.replace("cat said.txt", "echo Hi"), "page.md:30 printed"),
        (PAGE.replace("exits: 2", "exits: 1"), "page.md:41 ended with status 2"),
        (PAGE.replace("cat said.txt", "rm said.txt"), "page.md:30 ended with status 127"),
    ],
)
def test_a_page_that_breaks_its_word_fails(
    broken: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=message):
        run_page(broken, "page.md")
