"""A collection that is killed, really: `python -m tests.store.killed FOLDER WAY SEED KILLS`.

Each attempt is a process that goes on where the one before was killed, by SIGKILL.  WAY says when:

    step   as it is about to change a file for the n-th time; of a write, half is there by then
    time   at some moment of the time that it takes undisturbed

What a partial store has is compared after each kill, and the whole at the end.  Prints the number
of kills.  Processes are forked before MLX has computed anything, which saves the imports.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx_lm.models.llama  # noqa: F401 - imported once, for all attempts
import numpy as np

import mlxgraph as mg
from mlxgraph.store.manifest import NAME
from tests.models import VOCABULARY, make_llama

SITES = "layers.*.mlp"
SHARD = 6_000  # bytes: several prompts each, and several batches
STEPS = ("pwrite", "fsync", "rename", "link", "unlink", "posix_fallocate", "mkdir")


def prompts(count: int = 40) -> list[list[int]]:
    """Rows of 1 to 9 tokens."""
    return [[(7 * n + 3 * k) % VOCABULARY for k in range(1 + 5 * n % 9)] for n in range(count)]


def collected(folder: str) -> mg.ActivationStore:
    """The line that is killed."""
    model = mg.InterpretableModel(make_llama())
    return mg.batch_get_activations(
        model, iter(prompts()), sites=SITES, positions="all", batch_size=3, to=folder,
        shard_size=SHARD,
    )  # fmt: skip


def truth(file: str) -> None:
    """Write each site's rows of each prompt, as they are in memory."""
    model = mg.InterpretableModel(make_llama())
    found = mg.batch_get_activations(model, prompts(), sites=SITES, positions="all", batch_size=3)
    np.savez(file, *[np.concatenate([np.array(row) for row in rows]) for rows in found.values()])


def compare(folder: str, file: str, whole: bool) -> None:
    """The prompts that a folder has, compared with the truth."""
    if not (Path(folder) / NAME).exists():
        assert not whole
        return
    store = mg.ActivationStore(folder, partial=not whole)
    rows, seen = prompts(), []
    starts = np.cumsum([0, *map(len, rows)])
    expected = [*np.load(file).values()]
    for number in store.prompts:
        assert store.tokens[number].tolist() == rows[number]
        for site, values in zip(store.sites, expected, strict=True):
            found = np.array(store[site][number])
            assert np.abs(found - values[starts[number] : starts[number + 1]]).max() < 1e-6
        seen.append(number)
    assert len(set(seen)) == len(seen) == len(store)
    store.verify()
    if whole:
        assert seen == list(range(len(rows)))
        files = {path.name for path in Path(folder).iterdir() if not path.name.startswith(".")}
        shards = {shard["file"] for shard in store.meta["shards"]}
        assert files == shards | {NAME, "index-rank000.jsonl", "rank000.lock"}


def die_at(step: int) -> None:
    """Have this process kill itself as it changes a file for the n-th time."""
    left = [step]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                if real is pwrite:
                    pwrite(args[0], args[1][: len(args[1]) // 2], args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    pwrite = os.pwrite
    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


def attempt(task: Callable[[], Any], after: float | None = None) -> int:
    """Run a task in a process of its own.  Returns: how it ended, as `os.waitpid` says.

    Args: after: seconds until it is killed; it ends by itself, if None.
    """
    child = os.fork()
    if not child:
        code = 1
        try:
            task()
            code = 0
        finally:
            os._exit(code)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def main(base: str, way: str, seed: int, most: int) -> None:
    """Kill collections until each is done, folder after folder."""
    chance, kills, runs, file = random.Random(seed), 0, 0, f"{base}.npz"
    assert attempt(lambda: truth(file)) == 0
    began = time.perf_counter()
    assert attempt(lambda: checked(f"{base}/whole", file)) == 0
    takes = time.perf_counter() - began
    while kills < most:
        folder, status, runs = f"{base}/{runs}", None, runs + 1
        while status != 0 and kills < most:
            if way == "step":
                step = chance.choice([1, 2, 3, 5, 8, chance.randint(1, 60)])
                status = attempt(lambda: checked(folder, file, lambda: die_at(step)))  # noqa: B023
            else:
                after = chance.uniform(0, takes)
                status = attempt(lambda: checked(folder, file), after)  # noqa: B023
            assert status in (0, signal.SIGKILL), (status, seed, kills)
            kills += status != 0
        assert attempt(lambda: checked(folder, file)) == 0, (seed, kills)  # noqa: B023
        assert attempt(lambda: compare(folder, file, whole=True)) == 0, (seed, kills)  # noqa: B023
    print(kills, "kills of", runs, "runs")


def checked(folder: str, file: str, then: Callable[[], None] = lambda: None) -> None:
    """What the last kill left is compared, and the line is run again."""
    compare(folder, file, whole=False)
    then()
    collected(folder)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
