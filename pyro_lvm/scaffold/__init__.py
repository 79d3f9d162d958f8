"""A new pair in five minutes: files that work at once, to be rewritten into a story of one's own.

:mod:`~pyro_lvm.scaffold.continuous` and :mod:`~pyro_lvm.scaffold.discrete`, with their tests beside them, are what is
written: modules as any other, so that what checks the package checks them too.
"""

from pyro_lvm.scaffold.writing import LatentKind, NewPair, new_pair

__all__ = ["LatentKind", "NewPair", "new_pair"]
