"""The command `lnb`."""

from lnb_experiments.cli._cli import main as main
