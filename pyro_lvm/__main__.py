"""``python -m pyro_lvm`` is ``pyro-lvm``."""

from pyro_lvm.cli import main

if __name__ == "__main__":
    main()
