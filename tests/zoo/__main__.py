"""``python -m tests.zoo NAME serve …`` is the ``teller`` command with that bug in it."""

from __future__ import annotations

import sys

import click

from service.cli import main
from tests.zoo import ZOO


def _main() -> None:
    if len(sys.argv) < 2:
        for bug in ZOO.values():
            click.echo(f"{bug.name:34} {bug.needs:14} {bug.wrong}")
        return
    name, *arguments = sys.argv[1:]
    if name not in ZOO:
        sys.exit(f"No bug {name}; there are: {', '.join(ZOO)}")
    ZOO[name].release(setattr)
    main(arguments, prog_name="teller")


if __name__ == "__main__":
    _main()
