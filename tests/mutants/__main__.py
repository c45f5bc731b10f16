"""Try the mutants: `python -m tests.mutants`.  Exits with 1 where one survives."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.bench import CAUGHT, Bench, Verdict
from tests.mutants.mutant import Mutant
from tests.mutants.table import MUTANTS

BENCHES = 2


def tried(
    mutants: Sequence[Mutant], told: Callable[[Verdict], None], benches: int
) -> list[Verdict]:
    """The verdicts, in the table's order.

    Raises: RuntimeError where the tests fail on the code as it is, StaleMutant.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        free: SimpleQueue[Bench] = SimpleQueue()
        for k in range(benches):
            free.put(Bench(Path(folder) / str(k)))

        def alone(mutant: Mutant) -> Verdict:
            bench = free.get()
            try:
                verdict = bench.try_out(mutant)
            finally:
                free.put(bench)
            told(verdict)
            return verdict

        def as_it_is(tests: list[str]) -> str:
            bench = free.get()
            try:
                return bench.fails(tests)
            finally:
                free.put(bench)

        with ThreadPoolExecutor(benches) as pool:
            tests = sorted({test for mutant in mutants for test in mutant.tests})
            parts = [part for k in range(benches) if (part := tests[k::benches])]
            if wrong := "\n".join(filter(None, pool.map(as_it_is, parts))):
                raise RuntimeError(f"the tests fail on the code as it is:\n{wrong}")
            return list(pool.map(alone, mutants))


def markdown(verdicts: Sequence[Verdict]) -> str:
    """The table, for a page."""
    lines = ["| room | mutant | the law that it breaks | noticed by |", "|---|---|---|---|"]
    for verdict in verdicts:
        mutant, by = verdict.mutant, verdict.by if verdict.outcome == CAUGHT else verdict.outcome
        lines.append(f"| {mutant.room} | {mutant.name} | {mutant.law} | `{by.split('::')[0]}` |")
    return "\n".join(lines) + "\n"


def _as_json(verdicts: Sequence[Verdict]) -> str:
    rows = [
        {**v.mutant._asdict(), "room": v.mutant.room, "outcome": v.outcome, "by": v.by,
         "seconds": round(v.seconds, 1)}
        for v in verdicts
    ]  # fmt: skip
    return json.dumps(rows, indent=1) + "\n"


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many were caught in each room."""
    all_of = Counter(v.mutant.room for v in verdicts)
    caught = Counter(v.mutant.room for v in verdicts if v.outcome == CAUGHT)
    parts = [f"{room} {caught[room]} of {count}" for room, count in sorted(all_of.items())]
    return f"caught {caught.total()} of {len(verdicts)}: {', '.join(parts)}"


def _told(verdict: Verdict) -> None:
    mutant = verdict.mutant
    what = f"{verdict.outcome:8}  {mutant.room:8}  {mutant.name:48}  {verdict.seconds:5.1f} s"
    print(f"{what}  {verdict.by}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line.  Returns: the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="mutants by name")
    parser.add_argument("--room", nargs="+", metavar="ROOM", help="mutants of these folders")
    parser.add_argument("--benches", type=int, default=BENCHES, help="how many at a time")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts as JSON")
    given = parser.parse_args(argv)
    chosen = [m for m in MUTANTS if not given.only or m.name in given.only]
    chosen = [m for m in chosen if not given.room or m.room in given.room]
    if not chosen:
        parser.error("no mutant goes by that name or is in that room")
    verdicts = tried(chosen, _told, min(given.benches, len(chosen)))
    if given.markdown:
        given.markdown.write_text(markdown(verdicts))
    if given.json:
        given.json.write_text(_as_json(verdicts))
    print(summary(verdicts))
    return int(any(verdict.outcome != CAUGHT for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
