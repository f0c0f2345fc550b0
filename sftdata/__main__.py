"""`python -m sftdata` is the command `sftdata`."""

from sftdata.cli import main

if __name__ == "__main__":
    main(prog_name="sftdata")
