"""The command line: ``pyro-lvm list | check | fit | evaluate | impute | embed | select | gradients``."""

from pyro_lvm.cli.application import app, main

__all__ = ["app", "main"]
