"""The command line, ``pyro-lvm list | check | fit | evaluate | evidence | latent | impute | embed | select``, ..."""

from pyro_lvm.cli.application import app, main

__all__ = ["app", "main"]
