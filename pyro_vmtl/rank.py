"""Fit several priors on the same tasks and rank them: ``python -m pyro_vmtl.rank pools=[...]``"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL
from pyro_vmtl.inspection.scored import ALL_TASKS
from pyro_vmtl.runs import config_folder, read_plan
from pyro_vmtl.runs.configuration import Plan
from pyro_vmtl.runs.ranking import rank_plans
from pyro_vmtl.runs.refusals import ArgumentParser, ending_in_a_sentence
from pyro_vmtl.runs.screen import plain_console, styled
from pyro_vmtl.runs.trust import named_by_the_user

__all__ = ["main"]

_OPTIONS: dict[str, Any] = {
    "pools": ["standard", "mixture", "power", "nested"],
    "heldout": "validation",
    "draws": 2000,
    "out": None,
}
_HELP = f"""\
Fit several priors on the same tasks with the same budget, and rank them by how well they predict
held-out samples, with standard errors of the paired differences. It prints a table, best first, and
makes no run folder.

  python -m pyro_vmtl.rank
  python -m pyro_vmtl.rank data=clusters model=identity
  python -m pyro_vmtl.rank 'pools=[standard,power,nested]' out=ranking.csv

  pools=[...]         options of the group pool (python -m pyro_vmtl.train --help lists them);
                      without it [{",".join(_OPTIONS["pools"])}]
  heldout=validation  the part to rank on; test is for a last look, when the choice is made
  draws=2000          posterior draws behind a density
  out=FILE            also write a CSV: a row per prior and task

All else is as for python -m pyro_vmtl.train: data=..., model=..., trainer.epochs=..., seed=...

The columns of the table:
  log density   of all held-out samples together, in nats; more is better
  per sample    its mean
  difference    to the best prior, on the same samples; ± s.e. is its standard error
  within noise  yes: less than two standard errors, so these data do not say which is better
  LOO           leave-one-out density of the training samples; where there is none, it says why
"""


def _split(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Options of this command, and overrides of the training configuration."""
    ours = [text for text in arguments if text.partition("=")[0] in _OPTIONS]
    try:
        given = OmegaConf.to_container(OmegaConf.from_dotlist(ours))
    except Exception as error:  # whatever a YAML parser may raise
        raise InputError(f"{' '.join(ours)} cannot be read; expected pools=[a,b]") from error
    assert isinstance(given, dict)
    options = _OPTIONS | {str(key): value for key, value in given.items()}
    if isinstance(options["pools"], str):
        options["pools"] = [name.strip() for name in options["pools"].split(",")]
    if not isinstance(options["pools"], list):
        raise InputError(f"pools is {options['pools']!r}; expected a list such as [standard,power]")
    draws = options["draws"]
    if not isinstance(draws, int) or isinstance(draws, bool) or draws < 1:
        raise InputError(f"draws is {draws!r}; expected a whole number of at least 1")
    if options["out"] is not None and not Path(str(options["out"])).absolute().parent.is_dir():
        raise InputError(f"out is {options['out']}, in a folder that does not exist; expected one")
    others = [text for text in arguments if text not in ours]
    for text in others:
        if text.startswith(("pool=", "recipe=")):
            raise InputError(
                f"{text} chooses one prior; expected pools=[...] with all that are to be ranked"
            )
    return options, others


def _plans(pools: list[str], overrides: list[str]) -> tuple[dict[str, Plan], int]:
    """The plan of each pool, and the seed."""
    plans, seed = {}, 0
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for name in pools:
            config = compose("train", [*overrides, f"pool={name}"])
            plans[str(name)], seed = read_plan(config, named_by_the_user(overrides)), config.seed
    return plans, seed


def _table(ranking: pd.DataFrame) -> Table:
    table = Table("rank", title="Held-out data, all tasks")
    table.add_column("prior", no_wrap=True)
    headers = ("log\ndensity", "per\nsample", "difference", "± s.e.", "within\nnoise", "LOO")
    for header in headers:
        table.add_column(header, justify="right")
    for _, row in ranking[ranking["task"] == ALL_TASKS].iterrows():
        best = row["rank"] == 1
        table.add_row(
            str(row["rank"]),
            row["fit"],
            f"{row['log_density']:.1f}",
            f"{row['per_sample']:.3f}",
            "-" if best else f"{row['difference']:.1f}",
            "-" if best else f"{row['se']:.1f}",
            "-" if best else ("yes" if row["within_noise"] else "no"),
            "-" if row["loo_unavailable"] else f"{row['loo']:.1f}",
            style="bold" if best else None,
        )
    return table


def _run(arguments: list[str], console: Console) -> None:
    options, overrides = _split(arguments)
    plans, seed = _plans(options["pools"], overrides)

    def report(name: str, fitted: FittedVMTL) -> None:
        for sentence in fitted.warnings:
            console.print(styled("yellow", "Warning", f"({name}): {sentence}"))

    ranking = rank_plans(plans, options["heldout"], options["draws"], seed, report)
    console.print(_table(ranking))
    missing = ranking[(ranking["task"] == ALL_TASKS) & (ranking["loo_unavailable"] != "")]
    for _, row in missing.iterrows():
        console.print(f"No LOO of {row['fit']}: {row['loo_unavailable']}", highlight=False)
    if options["out"] is not None:
        ranking.to_csv(Path(options["out"]), index=False)


def main() -> None:
    """The command."""
    parser = ArgumentParser(
        "python -m pyro_vmtl.rank",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "arguments", nargs="*", metavar="key=value", help="any of what is listed above"
    )
    with ending_in_a_sentence(OSError):
        _run(parser.parse_args().arguments, plain_console())


if __name__ == "__main__":
    main()
