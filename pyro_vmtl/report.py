"""Write a run's ``report.html`` anew: ``python -m pyro_vmtl.report RUN``."""

import argparse
import sys
from typing import NoReturn

from pyro_vmtl.errors import InputError
from pyro_vmtl.runs import write_report

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"Error: {message}\n")


def main() -> None:
    """The command."""
    parser = _Parser(
        prog="python -m pyro_vmtl.report",
        description="Write report.html into the folder of a finished run, from the files in it.",
    )
    parser.add_argument("run", metavar="RUN", help="the folder, such as runs/digit_domains/<time>")
    arguments = parser.parse_args()
    try:
        print(write_report(arguments.run))
    except (InputError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
