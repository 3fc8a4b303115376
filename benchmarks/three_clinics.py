"""Clinics in processes of their own, which exchange files and no row.

    python benchmarks/three_clinics.py --folder /tmp/clinics

deals the rows of tests/data/cases/clinics.csv out to North, South and West, a folder each, and
starts a process for each clinic, which reads the table in its own folder alone. They write into
`exchange/`, which the coordinator, this process, reads: it opens no table. What it comes to lies in
`model/`, for `pv.load`.

A clinic that is another machine runs

    python benchmarks/three_clinics.py --folder FOLDER --clinic North

where FOLDER has `North/rows.csv`, and an `exchange/` that the coordinator reaches, too.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch

import pyro_vmtl as pv

TABLE = Path(__file__).parents[1] / "tests" / "data" / "cases" / "clinics.csv"
CLINICS = ("North", "South", "West")
ROUNDS = 4
PATIENCE = 600.0  # seconds


def awaited(path: Path) -> Path:
    """The file, once it is there: files are renamed into their place, and so are whole."""
    started = time.monotonic()
    while not path.exists():
        if time.monotonic() - started > PATIENCE:
            raise TimeoutError(f"{path} did not come")
        time.sleep(0.1)
    return path


def clinic(name: str, folder: Path) -> None:
    """What runs where the rows are."""
    table, exchange = folder / name / "rows.csv", folder / "exchange"
    summary = pv.summary(table, "clinic", "ill", classes=["no", "yes"], leave_out=["stay"])
    summary.save(exchange / f"{name}.summary")
    for number in range(1, ROUNDS + 1):
        request = pv.TaskRequest.load(awaited(exchange / f"{name}.request.{number}"))
        rows = pv.read_rows(table, like=request)
        pv.evidence(rows, request).save(exchange / f"{name}.evidence.{number}")


def coordinate(exchange: Path) -> pv.FittedVMTL:
    """What runs in the middle."""
    paths = [exchange / f"{name}.summary" for name in CLINICS]
    model = pv.agree([pv.TaskSummary.load(awaited(path)) for path in paths])
    for number in range(1, ROUNDS + 1):
        for name in CLINICS:
            pv.request(model, name).save(exchange / f"{name}.request.{number}")
        paths = [exchange / f"{name}.evidence.{number}" for name in CLINICS]
        model = pv.join([pv.TaskEvidence.load(awaited(path)) for path in paths], model)
        print(model.notes[-1], flush=True)
    return model


def main() -> None:
    """Be one of the clinics, or start all and coordinate them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clinic")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.clinic:
        clinic(options.clinic, options.folder)
        return
    (options.folder / "exchange").mkdir(parents=True)  # a folder that is new: no old messages
    for name, rows in pd.read_csv(TABLE).groupby("clinic"):
        if name in CLINICS:
            (options.folder / str(name)).mkdir()
            rows.to_csv(options.folder / str(name) / "rows.csv", index=False)
    command = [sys.executable, __file__, "--folder", str(options.folder), "--clinic"]
    started = [subprocess.Popen([*command, name], env=os.environ) for name in CLINICS]
    try:
        model = coordinate(options.folder / "exchange")
    finally:
        for process in started:
            process.terminate()
            process.wait()
    pv.save(model, options.folder / "model")
    table = pv.relatedness(model)[["task", "other", "probability"]]
    print(table[table["task"] < table["other"]].to_string(index=False))
    sent = sum(path.stat().st_size for path in (options.folder / "exchange").iterdir())
    print(f"{ROUNDS} rounds; {sent} bytes were exchanged in all, the summaries among them.")


if __name__ == "__main__":
    main()
