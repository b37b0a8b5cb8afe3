"""Maps cli/ to pruning.cli, so that no top-level module named `cli` is installed."""

from setuptools import setup

setup(
    packages=["pruning", "pruning.cli", "pruning.models", "pruning.data", "pruning.methods", "pruning.recipes"],
    package_dir={"pruning": "pruning", "pruning.cli": "cli"},
    package_data={"pruning": ["py.typed"], "pruning.recipes": ["*.toml"]},
)
