"""Runs: from a configuration to a folder that holds all that a person looks at."""

from pyro_vmtl.runs.configuration import Plan, config_folder, read_plan
from pyro_vmtl.runs.experiment import run_experiment
from pyro_vmtl.runs.folder import RunFolder
from pyro_vmtl.runs.report import write_report

__all__ = ["Plan", "RunFolder", "config_folder", "read_plan", "run_experiment", "write_report"]
