"""Lists the packages of the wheel; everything else is in pyproject.toml.

configs/ stays at the root of the repository, where users read it, and is installed as the package `lmsweep_configs`.
pyproject.toml can rename a folder or find packages, but not both.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lmcore*", "sweeps*", "analysis*"]), "lmsweep_configs"],
    package_dir={"lmsweep_configs": "configs"},
)
