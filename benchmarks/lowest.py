"""Do the lower bounds of `pyproject.toml` hold? The oldest versions they allow, together and used.

    python benchmarks/lowest.py                  # some minutes, and some gigabytes of packages
    python benchmarks/lowest.py --folder /tmp/x  # keeps the environment and the runs there

In an environment of its own, with the Python that runs this, it installs the lowest version of
every direct dependency that the bounds allow (uv's `--resolution lowest-direct`; of what those need
in turn, the newest). There it trains on a table and predicts new rows, trains one epoch of the
digits with everything that a run writes, resumes that run for another, and writes its report anew.
It prints the versions and how long each step took; the first step that fails ends it.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Wheels alone, but of what has none: the oldest sources no longer build.
WHEELS = ("--only-binary", ":all:", "--no-binary", "antlr4-python3-runtime")
SMALL = ("trainer.epochs=1", "trainer.steps_per_epoch=5", "trainer.progress_bar=false")

TABLE = """\
import numpy as np, pandas as pd
generator = np.random.default_rng(0)
frame = pd.DataFrame({"ward": generator.choice(list("abc"), 60), "age": generator.normal(size=60)})
frame["sex"] = generator.choice(["f", "m"], 60)
frame["ill"] = np.where(frame["age"] + generator.logistic(size=60) > 0, "yes", "no")
frame.to_csv("wards.csv", index=False)
frame.drop(columns="ill").to_parquet("new.parquet", index=False)
"""
CHECK = """\
import json, pandas as pd
for run in ("table", "digits", "longer"):
    scores = json.load(open(f"{run}/metrics.json"))["test"]["mean"]
    assert all(value is not None for value in scores.values()), scores
    for name in ("report.html", "inference_data.nc", "relatedness.csv", "figures/training.png"):
        assert open(f"{run}/{name}", "rb").read(1), name
assert pd.read_csv("out.csv").filter(like="probability").sum(axis=1).round(4).eq(1).all()
"""


def steps(python: Path) -> dict[str, list[str]]:
    """What is done with the oldest versions, by its name."""
    command = [str(python), "-m", "pyro_vmtl"]
    table = ("data=table", "data.path=wards.csv", "data.task=ward", "data.target=ill")
    longer = ("resume=digits", "trainer.epochs=2", "run_dir=longer")
    return {
        "make a table": [str(python), "-c", TABLE],
        "train on it": [*command, "train", *table, "run_dir=table"],
        "predict": [*command, "predict", "table", "new.parquet", "out.csv"],
        "train on digits": [*command, "train", *SMALL, "run_dir=digits"],
        "train for longer": [*command, "train", *longer],
        "report": [*command, "report", "digits"],
        "look at the files": [str(python), "-c", CHECK],
    }


def direct(project: Path) -> list[str]:
    """The names of the direct dependencies."""
    found = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    return [re.split(r"[^\w-]", text)[0] for text in found]


def install(folder: Path, project: Path) -> Path:
    """An environment with the oldest versions; its Python is returned."""
    uv = folder / "uv" / "bin" / "uv"
    if not uv.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "uv"], check=True)
        pip = [folder / "uv" / "bin" / "python", "-m", "pip", "install", "-q", "uv"]
        subprocess.run(pip, check=True)
    subprocess.run([uv, "venv", "-q", "--clear", "-p", sys.executable, folder / "env"], check=True)
    python, lowest = folder / "env" / "bin" / "python", folder / "lowest.txt"
    chosen = ("--resolution", "lowest-direct", "--prerelease", "disallow", "-o", str(lowest))
    # What uv says of dependencies without a bound is known: pyproject.toml has the reason.
    pyproject = project / "pyproject.toml"
    compiling = [uv, "pip", "compile", "-q", *WHEELS, "-p", python, *chosen, pyproject]
    subprocess.run(compiling, check=True, stdout=subprocess.DEVNULL)
    into = [uv, "pip", "install", "-q", "-p", python]
    subprocess.run([*into, *WHEELS, "-r", lowest], check=True)
    subprocess.run([*into, "--no-deps", "--reinstall", project], check=True)
    return python


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the environment and the runs here")
    parser.add_argument("--project", type=Path, default=ROOT, help="the folder of pyproject.toml")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        python = install(folder, given.project)
        lines = (folder / "lowest.txt").read_text().splitlines()
        versions = dict(line.split("==") for line in lines if "==" in line)
        for name in direct(given.project):
            print(f"{name} {versions[name.lower()]}")
        runs = Path(tempfile.mkdtemp(prefix="runs-", dir=folder))
        quiet = {**os.environ, "MPLBACKEND": "Agg", "PYTHONWARNINGS": "default"}
        for name, command in steps(python).items():
            started = time.perf_counter()
            done = subprocess.run(command, cwd=runs, env=quiet, capture_output=True, text=True)
            print(f"{name}: {time.perf_counter() - started:.0f} s")
            if done.returncode:
                sys.exit(done.stdout[-2000:] + done.stderr[-4000:])
            if "Warning: report.html was not written" in done.stdout:
                sys.exit(done.stdout[-2000:])
    print("The lower bounds hold.")


if __name__ == "__main__":
    main()
