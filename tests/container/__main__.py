"""Build the image and say what is in it: `python -m tests.container`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.container import engine as engines
from tests.container import image as images

if TYPE_CHECKING:
    from tests.container.engine import Engine

MB = 1_000_000


def report(engine: Engine, image: str) -> str:
    """The image's layers, its size by parts, and every package."""
    found = images.contents(engine, image)
    whole = found.base_size + found.library_size + found.packages_size
    compressed = images.compressed_size(engine, image)
    lines = [
        f"base: {'the pinned one' if images.PULL else 'a stand-in (tests/container/bases.py)'}",
        *(f"layer {layer}" for layer in images.layers(engine, image)),
        f"size {whole / MB:.0f} MB, compressed {compressed / MB:.0f} MB",
        f"  base, with Python  {found.base_size / MB:6.1f} MB",
        f"  Python's bytecode  {found.library_size / MB:6.1f} MB",
        f"  Teller's packages  {found.packages_size / MB:6.1f} MB",
    ]
    for kind, packages in (("Python", found.python), ("Debian", found.debian)):
        lines.append(f"{len(packages)} packages of {kind}:")
        lines += [f"  {name} {version}" for name, version in sorted(packages.items())]
    return "\n".join(lines)


def main() -> None:
    """Print it."""
    with engines.opened() as engine:
        sys.stdout.write(report(engine, images.build(engine, "report")) + "\n")


if __name__ == "__main__":
    main()
