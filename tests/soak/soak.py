"""An hour of mixed use in eight threads: results right, memory flat, nothing left.

    python -m tests.soak.soak --minutes 60 [--threads 8]

Every thread does all pieces of work over and over, each time in another order, and compares each
answer with the one that was computed before the threads started.  Meanwhile threads are interrupted
at random moments, wherever they are: what they were doing is void, and what they do next has to be
right.  MLX's memory and the process's are looked at twice a second.

Judged: no answer differs; the largest memory of the last third is that of the middle third, within
SLACK; when all threads are done, MLX holds what it held, the models are as they were, to the bit
and the object, and so are MLX's own functions.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import random
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

import mlxgraph as mg
from mlxgraph.record.stack import stack
from tests.soak.work import Models, Work, all_work, shuffled

SLACK = 1.10, 32 * 2**20  # times, or bytes more: whichever is larger
NEAR = 2e-4  # of the largest number of an answer: eager and compiled, alone and in a batch
SPACES = (mx, mx.linalg, mx.fast, mx.fft, mx.random, nn, nn.layers, nn.losses, mx.array, nn.Module)
MIB = 2**20


class Sample(NamedTuple):
    """Bytes at a moment: what MLX holds, what the process does; Python's objects are looked at when
    all is over."""

    seconds: float
    mlx: int
    process: int


class Interrupt(KeyboardInterrupt):
    """What a thread is interrupted with."""


class Soak:
    """One soak.  Attributes: wrong: what came out otherwise than before, with where."""

    def __init__(self, minutes: float, threads: int, seed: int = 0, interrupts: bool = True):
        self.seconds, self.threads, self.seed = 60 * minutes, threads, seed
        self.interrupts = interrupts
        self.models = Models()
        self.works = all_work(self.models)
        self.wrong: list[str] = []
        self.done: Counter[str] = Counter()
        self.interrupted = 0
        self.samples: list[Sample] = []
        self._stop = threading.Event()
        self._began = 0.0

    def run(self) -> dict[str, Any]:
        """The whole of it.  Returns: what is judged, and what was counted."""
        for _ in range(3):  # what is worked out and compiled once is there when it begins
            self.answers = {work.name: _as_numpy(work.do()) for work in self.works}
        gc.collect()
        before, state = mx.get_active_memory(), self._state()
        self._began = time.monotonic()
        workers = [
            threading.Thread(target=self._work, args=(k,), daemon=True) for k in range(self.threads)
        ]
        for worker in workers:
            worker.start()
        self._watch(workers)
        stuck = 0
        for worker in workers:
            worker.join(timeout=120)
            stuck += worker.is_alive()
        if stuck:
            self.wrong.append(f"{stuck} threads never came to an end")
        del workers
        gc.collect()
        after = mx.get_active_memory()
        left = [name for name, was in state.items() if self._state()[name] != was]
        return self._judged(before, after, left)

    # -- the threads ------------------------------------------------------------------------------

    def _work(self, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            try:
                for work in shuffled(self.works, 1000 * number + turn):
                    if self._stop.is_set():
                        return
                    self._once(work)
            except Interrupt:
                self.interrupted += 1
            except BaseException:
                self.wrong.append(f"thread {number}, a loop: {traceback.format_exc()}")
                return

    def _once(self, work: Work) -> None:
        try:
            answer = _as_numpy(work.do())
        except Interrupt:
            raise
        except BaseException as error:
            if _was_interrupted(error):
                raise Interrupt from None
            self.wrong.append(f"{work.name}: {traceback.format_exc()}")
            return
        said = differs(answer, self.answers[work.name])
        if said:
            self.wrong.append(f"{work.name}: {said}")
        self.done[work.name] += 1

    def _watch(self, workers: list[threading.Thread]) -> None:
        draw = random.Random(self.seed)
        while time.monotonic() - self._began < self.seconds and len(self.wrong) < 20:
            time.sleep(0.5)
            passed = time.monotonic() - self._began
            self.samples.append(Sample(passed, mx.get_active_memory(), _process()))
            if self.interrupts and draw.random() < 0.5:
                _interrupt(draw.choice(workers))
        self._stop.set()

    # -- judging ----------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """What has to be as it was."""
        found: dict[str, Any] = {"an open block": (len(stack.open), bool(stack.paused))}
        for space in SPACES:
            values = {name: id(value) for name, value in dict(vars(space)).items()}
            found[f"names in {getattr(space, '__name__', space)}"] = values
        for name in ("tiny", "llama"):
            module = getattr(self.models, name).module
            parts = module.named_modules()
            found[f"modules of {name}"] = [(path, type(part), id(part)) for path, part in parts]
            weights = tree_flatten(module.parameters())
            found[f"weights of {name}"] = [(path, _bytes(array)) for path, array in weights]
        return found

    def _judged(self, before: int, after: int, left: list[str]) -> dict[str, Any]:
        third = len(self.samples) // 3
        middle, last = self.samples[third : 2 * third], self.samples[2 * third :]
        flat = {}
        for kind in ("mlx", "process"):
            early = max((getattr(sample, kind) for sample in middle), default=0)
            late = max((getattr(sample, kind) for sample in last), default=0)
            flat[kind] = early, late, late <= max(SLACK[0] * early, early + SLACK[1])
        return {
            "minutes": (time.monotonic() - self._began) / 60,
            "threads": self.threads,
            "works": sum(self.done.values()),
            "kinds": len(self.done),
            "interrupted": self.interrupted,
            "wrong": self.wrong,
            "left": left,
            "mlx before and after": (before, after),
            "middle and last third": flat,
            "fine": not self.wrong
            and not left
            and after <= before + MIB
            and all(fine for *_, fine in flat.values()),
        }


def differs(answer: dict[str, Any], known: dict[str, Any]) -> str:
    """How an answer is another one than the known; nothing where it is that one."""
    if answer.keys() != known.keys():
        return f"{[*answer]} instead of {[*known]}"
    for name, values in answer.items():
        if len(values) != len(known[name]):
            return f"{name} has {len(values)} parts instead of {len(known[name])}"
        for value, was in zip(values, known[name], strict=True):
            if value.shape != was.shape:
                return f"{name} has shape {value.shape} instead of {was.shape}"
            most = NEAR * max(1.0, np.abs(was).max(initial=0.0))
            if not np.abs(value - was).max(initial=0.0) <= most:  # nor where it is no number
                return f"{name} is off by {np.abs(value - was).max()}"
    return ""


def _as_numpy(answer: dict[str, Any]) -> dict[str, list[np.ndarray]]:
    """Evaluated here, in the thread that made it."""
    return {
        name: [np.array(one, dtype=np.float64) for one in _listed(value)]
        for name, value in answer.items()
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _bytes(array: mx.array) -> bytes:
    return bytes(memoryview(np.array(array.astype(mx.float32))).cast("B"))


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether an interrupt is what an error came of: code on the way may have wrapped it."""
    while error is not None:
        if isinstance(error, (Interrupt, mg.SweepStopped)):  # it says how far the sweep had come
            return True
        error = error.__cause__ or error.__context__
    return False


def _interrupt(worker: threading.Thread) -> None:
    if worker.ident is not None and worker.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(worker.ident), ctypes.py_object(Interrupt)
        )


def _process() -> int:
    """Bytes of this process in memory; 0 where the system does not say it so."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--no-interrupts", action="store_true")
    options = parser.parse_args()
    found = Soak(options.minutes, options.threads, interrupts=not options.no_interrupts).run()
    print(json.dumps(found, indent=1))
    raise SystemExit(not found["fine"])


if __name__ == "__main__":
    main()
