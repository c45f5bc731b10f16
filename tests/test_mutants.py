"""The table of mutants is sound.  `make mutants` says whether every one of them is caught."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.mutants.bench import Bench
from tests.mutants.laws import CLAIMED, NOT_YET
from tests.mutants.mutant import PACKAGE, ROOT, Mutant, StaleMutant
from tests.mutants.table import MUTANTS

FEWEST = 150
ROOMS = {"graph": 40, "record": 40, "rewrite": 30, "run": 35, "trace": 15}  # at least so many


@cache
def source(page: Path) -> str:
    """The text of a file."""
    return page.read_text()


@cache
def said(page: Path) -> str:
    """What the code of a file says."""
    return ast.dump(ast.parse(source(page)))


@cache
def functions(page: Path) -> set[str]:
    """The functions of a file, by name."""
    return {n.name for n in ast.walk(ast.parse(page.read_text())) if isinstance(n, ast.FunctionDef)}


def test_there_are_many_and_in_every_room():
    assert len(MUTANTS) >= FEWEST
    counts = Counter(mutant.room for mutant in MUTANTS)
    assert {room: counts[room] for room in ROOMS if counts[room] < ROOMS[room]} == {}


def test_no_two_mutants_have_one_name_or_are_one_change():
    for what in (
        [mutant.name for mutant in MUTANTS],
        [(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS],
    ):
        assert [one for one, count in Counter(what).items() if count > 1] == []


def test_a_mutant_is_a_change_that_can_be_read():
    """A snippet that the code no longer has shows here: aim it at what the code says now."""
    wrong = []
    for mutant in MUTANTS:
        page = ROOT / PACKAGE / mutant.file
        try:
            changed = mutant.applied(source(page))
            if ast.dump(ast.parse(changed)) == said(page):
                wrong.append(f"{mutant.name}: nothing has changed")
        except (StaleMutant, SyntaxError) as error:
            wrong.append(f"{mutant.name}: {error}")
    assert wrong == []
    assert [mutant.name for mutant in MUTANTS if not (mutant.law and mutant.tests)] == []


def test_the_tests_of_a_mutant_are_there():
    gone = []
    for mutant in MUTANTS:
        for test in mutant.tests:
            file, _, name = test.partition("::")
            page = ROOT / "tests" / file
            if not page.is_file() or name not in {"", *functions(page)}:
                gone.append(f"{mutant.name}: {test}")
    assert gone == []


def test_every_law_is_broken_by_a_mutant_or_there_is_nothing_to_break():
    broken = {law for mutant in MUTANTS for law in mutant.laws}
    assert broken == set(CLAIMED)
    assert not broken & set(NOT_YET) and {*CLAIMED, *NOT_YET} == set(range(1, 33))


@pytest.mark.parametrize("source", ["nothing of the kind", "x = 1\nx = 1\n"])
def test_a_snippet_that_stands_there_never_or_twice_is_stale(source: str):
    mutant = Mutant("one is two", "graph/node.py", "x = 1", "x = 2", "x is 1", ("test_errors.py",))
    with pytest.raises(StaleMutant, match="one is two.*not once"):
        mutant.applied(source)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


SITES = "graph/test_graph.py::test_sites_are_written_as_users_write_them"
SITE = Mutant(
    "calls are not told", "graph/site.py", 'f".calls[', 'f".call[', "a site's text", (SITES,)
)


@pytest.mark.parametrize(
    ("mutant", "outcome"),
    [
        (SITE, "caught"),
        (SITE._replace(tests=("graph/test_node.py::test_nan_is_one_literal",)), "SURVIVED"),
        (SITE._replace(old="import annotations", new="import no_such_thing"), "BROKEN"),
    ],
    ids=["caught", "survived", "broken"],
)
def test_a_bench_tells_what_became_of_a_mutant(bench: Bench, mutant: Mutant, outcome: str):
    page = bench.folder / PACKAGE / mutant.file
    before = page.read_text()
    assert bench.try_out(mutant).outcome == outcome
    assert page.read_text() == before, "the bench is as it was"


def test_a_bench_on_which_mutants_were_tried_passes_its_tests(bench: Bench):
    """Those above: their compiled files are gone, too."""
    assert not bench.fails(SITE.tests)


def test_the_benches_leave_the_package_alone():
    assert Path(__file__).parents[1] == ROOT
    source = (ROOT / PACKAGE / SITE.file).read_text()
    assert SITE.old in source and SITE.new not in source
