"""The command line: ``python -m pyro_vmtl COMMAND``."""

import argparse
import importlib
import sys
from pathlib import Path

from pyro_vmtl.runs.predicting import predict_file, write_table
from pyro_vmtl.runs.refusals import ArgumentParser, ending_in_a_sentence
from pyro_vmtl.runs.screen import plain_console

__all__ = ["main"]

_OTHERS = {
    "train": "fit a model to a task set and fill a run folder",
    "rank": "fit several priors on the same tasks and rank them",
    "report": "write the report of a run anew",
    "benchmark": "fit many methods on many task sets and write one table",
}
_HELP = f"""\
Bayesian multi-task learning that learns which tasks are related.

{"".join(f"  {name:<11}{what}{chr(10)}" for name, what in _OTHERS.items())}\
  predict    predict new rows of a table by a model that was trained on it

python -m pyro_vmtl COMMAND --help explains each; python -m pyro_vmtl.train and the others are the
same commands.
"""
_PREDICT = """\
Predict new rows of a table by a model that was trained on it (train data=table, or pv.save).

  python -m pyro_vmtl predict runs/table/<time> new.csv predictions.csv
  python -m pyro_vmtl predict runs/table/<time> new.csv out.parquet --learn eight_rows.csv

Written are the columns of the table and, beside them, the prediction: for classes the most
probable one and the probability of each; for numbers the mean, sd, and a 90% interval from low to
high, in the unit of the target. Tasks that the model has not seen are predicted from the population
of tasks, or, with --learn, from labelled rows of theirs.
"""


def _predict(arguments: list[str]) -> None:
    parser = ArgumentParser(
        "python -m pyro_vmtl predict",
        description=_PREDICT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="RUN", help="folder of a run or of a model")
    parser.add_argument("rows", type=Path, metavar="TABLE", help="rows to predict")
    parser.add_argument(
        "out",
        type=Path,
        nargs="?",
        metavar="OUT",
        help="a new file: .csv, .tsv or .parquet; without it CSV goes to the standard output",
    )
    parser.add_argument(
        "--learn", type=Path, metavar="TABLE", help="labelled rows of tasks that are new"
    )
    parser.add_argument("--separator", help="between the columns of a text file")
    parser.add_argument("--encoding", help="of a text file; UTF-8 without it")
    parser.add_argument("--draws", type=int, default=200, help="posterior draws (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    given = parser.parse_args(arguments)
    frame, sentences = predict_file(
        given.model,
        given.rows,
        given.learn,
        given.separator,
        given.encoding,
        given.draws,
        given.seed,
    )
    write_table(frame, sys.stdout if given.out is None else given.out, given.overwrite)
    console = plain_console(stderr=True)
    for sentence in sentences:
        console.print(f"Warning: {sentence}", soft_wrap=True)


def main() -> None:
    """The command."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("--help", "-h"):
        sys.stdout.write(_HELP)
        return
    if command in _OTHERS:
        sys.argv = [f"{sys.argv[0]} {command}", *sys.argv[2:]]
        importlib.import_module(f"pyro_vmtl.{command}").main()
        return
    with ending_in_a_sentence(OSError):
        if command == "predict":
            _predict(sys.argv[2:])
            return
    known = ", ".join([*_OTHERS, "predict"])
    sys.stderr.write(f"Error: there is no command {command!r}; expected one of {known}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
