"""Build the image and say what is in it: `python -m tests.container`."""

from __future__ import annotations

from tests.container import engine as engines
from tests.container import image as images

MB = 1_000_000


def main() -> None:
    """Print its layers, its size by parts, and every package."""
    with engines.opened() as engine:
        image = images.build(engine, "report")
        found = images.contents(engine, image)
        compressed = images.compressed_size(engine, image)
        print(f"base: {'the pinned one' if images.PULL else 'a stand-in (tests/container/bases.py)'}")
        for layer in images.layers(engine, image):
            print(f"layer {layer}")
        whole = found.base_size + found.library_size + found.packages_size
        print(f"size {whole / MB:.0f} MB, compressed {compressed / MB:.0f} MB")
        print(f"  base, with Python   {found.base_size / MB:6.1f} MB")
        print(f"  Python's bytecode   {found.library_size / MB:6.1f} MB")
        print(f"  Teller's packages   {found.packages_size / MB:6.1f} MB")
        for kind, packages in (("Python", found.python), ("Debian", found.debian)):
            print(f"{len(packages)} packages of {kind}:")
            for name, version in sorted(packages.items()):
                print(f"  {name} {version}")


if __name__ == "__main__":
    main()
