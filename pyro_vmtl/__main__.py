"""The command line: ``python -m pyro_vmtl COMMAND``."""

import argparse
import importlib
import sys
from pathlib import Path

from pyro_vmtl.runs.grouping import by_task, group_run
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
  group      put the tasks of a run into groups that gain the most from each other

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


_GROUP = """\
Put the tasks of a run into groups that gain the most from each other.

  python -m pyro_vmtl group runs/table/<time> --groups 3
  python -m pyro_vmtl group runs/table/<time> --max-size 4 --out groups.csv

Gains are those of pairs in influence.csv, which a run writes where the pool is Nested, no encoder
is trained and there are at most 30 tasks. Nothing is trained, and the clusters that the run has
learned are not read. Up to 12 tasks the answer is the best there is, beyond that the best of a
search.
"""


def _group(arguments: list[str]) -> None:
    parser = ArgumentParser(
        "python -m pyro_vmtl group",
        description=_GROUP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--groups", type=int, help="how many; as many as is best without it")
    parser.add_argument("--max-size", type=int, help="tasks in a group, at most")
    parser.add_argument(
        "--overlap", action="store_true", help="let a task be in several groups (up to 12 tasks)"
    )
    parser.add_argument("--out", type=Path, help="a new file, a row a task: .csv, .tsv or .parquet")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    given = parser.parse_args(arguments)
    found = group_run(given.run, given.groups, given.max_size, given.overlap)
    console = plain_console()
    for number, row in enumerate(found.itertuples(), 1):
        console.print(f"{number}. {row.gain:+.3f}  {', '.join(row.tasks)}", soft_wrap=True)
    way = "the best there is" if found.attrs["exact"] else "the best that was found"
    console.print(f"Sum {found.attrs['gain']:+.3f} nats a sample, {way}.")
    if given.out is not None:
        write_table(by_task(found), given.out, given.overwrite)


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


_HERE = {"predict": _predict, "group": _group}


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
        if command in _HERE:
            _HERE[command](sys.argv[2:])
            return
    known = ", ".join([*_OTHERS, *_HERE])
    sys.stderr.write(f"Error: there is no command {command!r}; expected one of {known}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
