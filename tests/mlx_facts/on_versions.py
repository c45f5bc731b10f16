"""The beliefs about MLX on the oldest and the newest versions that `pyproject.toml` allows.

    python tests/mlx_facts/on_versions.py [cpu | cuda12 | cuda13]

Each pair of versions gets a small environment of its own, made for the run and thrown away.  Needs
a package index, and nothing but Python to start with.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
ASKED = ("mlx", "mlx-lm")
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "-q")
TESTS = (
    *("-m", "pytest", "-q", "-p", "no:cacheprovider"),
    *("-p", "tests.mlx_facts.alone", "--noconftest"),  # without the rest of the house
    "tests/mlx_facts",
)


def requirements() -> dict[str, str]:
    """What `pyproject.toml` says of mlx, mlx-lm and pytest: `{"mlx": ">=1,<2", ...}`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {}
    for line in (*project["dependencies"], *project["optional-dependencies"]["test"]):
        name = line.partition(">")[0].strip()
        if name in (*ASKED, "pytest"):
            found[name] = line[len(name) :].replace(" ", "")
    return found


def oldest(bounds: str) -> str:
    """`>=1,<2` -> `==1`"""
    (low,) = [bound for bound in bounds.split(",") if bound.startswith(">=")]
    return low.replace(">=", "==")


def environment(folder: str, *lists: list[str]) -> Path:
    """The Python of a fresh environment with these installed, list by list; pip's words if not."""
    python = Path(folder, "bin", "python")
    steps = [([sys.executable, "-m", "venv", folder], "a virtual environment")]
    for wanted in lists:
        names = " ".join(name for name in wanted if not name.startswith("-"))
        steps.append(([str(python), *PIP, "install", "--no-compile", *wanted], names))
    for command, what in steps:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(
                f"cannot set up {what}; is the package index within reach?\n"
                f"{done.stdout}{done.stderr}"
            )
    return python


def installed(python: Path, names: tuple[str, ...] = ASKED) -> str:
    """`mlx 1.2.3, mlx-lm 1.2.3`"""
    ask = f"from importlib.metadata import version as v; print(*map(v, {names}), sep='\\n')"
    done = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True)
    return ", ".join(map(" ".join, zip(names, done.stdout.split(), strict=True)))


def run(label: str, extra: str, versions: dict[str, str], pytest: str) -> bool:
    """Ask the beliefs in an environment of these versions; whether all of them hold."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mlxgraph-facts.", ignore_cleanup_errors=True) as there:
        mlx = f"mlx[{extra}]" if extra else "mlx"
        wanted = [mlx + versions["mlx"], "mlx-lm" + versions["mlx-lm"], "pytest" + pytest]
        python = environment(there, wanted)
        sys.stdout.write(f"-- the {label} allowed: {installed(python)}\n")
        sys.stdout.flush()
        passed = not subprocess.run([python, "-B", *TESTS], cwd=ROOT).returncode
    sys.stdout.write(f"-- {time.monotonic() - start:.0f} s\n")
    return passed


def main() -> None:
    """Both ends of the range; exits with 1 if a belief fails on either."""
    extra = sys.argv[1] if len(sys.argv) > 1 else ""
    bounds = requirements()
    pytest = bounds.pop("pytest")
    low = {name: oldest(given) for name, given in bounds.items()}
    both = [run("oldest", extra, low, pytest), run("newest", extra, bounds, pytest)]
    sys.exit(not all(both))


if __name__ == "__main__":
    main()
