"""The command line, ``pyro-lvm list | new | check | fit | evaluate | ppc | report | impute | embed | select``, ..."""

from pyro_lvm.cli.application import app, main

__all__ = ["app", "main"]
