"""Maps cli/ to pruning.cli, so that no top-level module named `cli` is installed."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pruning", "pruning.*"]), "pruning.cli"],
    package_dir={"pruning": "pruning", "pruning.cli": "cli"},
    package_data={"pruning": ["py.typed"], "pruning.recipes": ["*.toml"]},
)
