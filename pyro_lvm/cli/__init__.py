"""The command line, ``pyro-lvm list | new | check | fit | evaluate | ppc | report | impute | embed | select``, ...

Commands import what they work with when they run: torch alone takes seconds, which neither help nor a mistyped
option is worth.
"""

from pyro_lvm.cli.application import app, main

__all__ = ["app", "main"]
