"""The part of the packaging that takes code: which folders become which packages.

Everything else stands in pyproject.toml.
"""

from setuptools import find_packages, setup

setup(
    # The configs live at the top of the checkout, where a reader looks for them, and inside the
    # package once installed, where the commands find them without a checkout. Their __init__.py
    # makes them a package to Hydra; without it, an editable install does not find them either.
    packages=[*find_packages(include=["pyro_vmtl*"]), "pyro_vmtl.configs"],
    package_dir={"pyro_vmtl.configs": "configs"},
    package_data={
        "pyro_vmtl": ["py.typed"],
        "pyro_vmtl.configs": ["**/*.yaml"],
        "pyro_vmtl.runs": ["report.html.jinja", "report.css", "report.js"],
    },
    # Only what is named above goes in.
    include_package_data=False,
)
