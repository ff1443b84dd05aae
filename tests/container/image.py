"""Teller's image, really built from the Containerfile, and what is in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.container import bases

if TYPE_CHECKING:
    from tests.container.engine import Engine

ROOT: Final = Path(__file__).parents[2]
# Where a registry is reached the pinned images themselves are built from.
PULL: Final = os.environ.get("CONTAINER_BASES") == "pull"
DEBIAN: Final = re.compile(r"^Package: (\S+)$.*?^Version: (\S+)$", re.MULTILINE | re.DOTALL)
# uv trusts no certificates of the machine unless told so.
UV_TOML: Final = "system-certs = true\n"


class Contents(NamedTuple):
    """What an image is made of; sizes in bytes, as they lie unpacked."""

    python: dict[str, str]
    debian: dict[str, str]
    base_size: int
    library_size: int
    packages_size: int


def build(engine: Engine, tag: str, *, source: Path = ROOT) -> str:
    """Build a tree's Containerfile as of the time of the last commit; the image's name."""
    image = f"localhost/teller:{tag}"
    secret = engine.folder / "tmp" / "uv.toml"
    secret.write_text(UV_TOML)
    epoch = committed_at(ROOT)
    base = [] if PULL else [*bases.mapped(engine), f"--secret=id=uv,src={secret}"]
    # The host's network: the pinned packages come through it.
    engine.run("buildah", "build", "--no-cache", "--network=host", *base, f"--timestamp={epoch}",
               f"--build-arg=VERSION={tag}", "--file", source / "Containerfile", "--tag", image,
               source)  # fmt: skip
    return image


def committed_at(tree: Path) -> int:
    """The time of the last commit, in seconds since 1970."""
    command = ["git", "-C", str(tree), "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def configuration(engine: Engine, image: str) -> dict[str, Any]:
    """The image's own configuration, as the OCI defines it, with its layers' digests."""
    found: dict[str, Any] = json.loads(engine.run("buildah", "inspect", "--type=image", image))
    return dict(found["OCIv1"])


def layers(engine: Engine, image: str) -> list[str]:
    """The digests of the unpacked layers, from the base to the top."""
    return list(configuration(engine, image)["rootfs"]["diff_ids"])


def contents(engine: Engine, image: str) -> Contents:
    """What is in it."""
    with engine.mounted(image) as root:
        packages = site_packages(root)
        library = standard_library(root)
        status = (root / "var" / "lib" / "dpkg" / "status").read_text()
        bytecode = sum(map(size, library.rglob("__pycache__")))
        return Contents(
            python={it.name: it.version for it in distributions(path=[str(packages)])},
            debian=dict(DEBIAN.findall(status)),
            base_size=size(root) - size(root / "opt") - bytecode,
            library_size=bytecode,
            packages_size=size(root / "opt"),
        )


def compressed_size(engine: Engine, image: str) -> int:
    """Bytes of the image's own layers compressed by gzip, as a registry keeps and sends them."""
    folder = engine.folder / "tmp" / "pushed"
    shutil.rmtree(folder, ignore_errors=True)
    engine.run("buildah", "push", "--compression-format=gzip", image, f"oci:{folder}:teller")
    blobs = folder / "blobs" / "sha256"
    index = json.loads((folder / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"].partition(":")[2]).read_text())
    shutil.rmtree(folder)
    return sum(layer["size"] for layer in manifest["layers"])


def site_packages(root: Path) -> Path:
    """Where Teller and its packages are in an image."""
    (found,) = (root / "opt" / "teller" / "lib").glob("python3.*/site-packages")
    return found


def standard_library(root: Path) -> Path:
    """Python's own library: Debian's is not where the real base has it."""
    (found,) = {it.parent for it in root.glob("usr/**/lib/python3.13/abc.py")} | {
        it.parent for it in root.glob("usr/lib/python3.13/abc.py")
    }
    return found


def size(folder: Path) -> int:
    """Bytes in the files of a folder; a file that has two names counts once."""
    files = {
        (found.st_dev, found.st_ino): found.st_size
        for path in folder.rglob("*")
        if not path.is_symlink() and path.is_file() and (found := path.stat())
    }
    return sum(files.values())
