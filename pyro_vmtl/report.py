"""Write a run's ``report.html`` anew: ``python -m pyro_vmtl.report RUN``."""

from pyro_vmtl.runs import write_report
from pyro_vmtl.runs.refusals import ArgumentParser, ending_in_a_sentence

__all__ = ["main"]


def main() -> None:
    """The command."""
    parser = ArgumentParser(
        prog="python -m pyro_vmtl.report",
        description="Write report.html into the folder of a finished run of python -m "
        "pyro_vmtl.train, from the files in it. The run has written one itself; this writes it "
        "again, with a figure of your own in figures/ or by a newer version. Nothing is trained.",
    )
    parser.add_argument("run", metavar="RUN", help="the folder, such as runs/digit_domains/<time>")
    arguments = parser.parse_args()
    with ending_in_a_sentence(OSError):
        print(write_report(arguments.run))


if __name__ == "__main__":
    main()
