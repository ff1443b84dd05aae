"""Stand-ins for the two images that the Containerfile names, where no registry is reached.

`python:3.13-slim` is a Debian of the same release made by debootstrap, with Debian's own Python
3.13 under the names of the real one; it has pip beside it, as the real one has. The image of uv is
its binary from PyPI at the same version. Both are mapped onto the pinned names: the Containerfile
is built as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.container.engine import Engine

CONTAINERFILE: Final = Path(__file__).parents[2] / "Containerfile"
RELEASE: Final = "trixie"
MIRROR: Final = "http://deb.debian.org/debian"
# The machine's certificates: an index may be reached through a proxy with its own.
CERTIFICATES: Final = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
UNNEEDED: Final = (
    *("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt/lists"),
    "var/log",
)
TIMEOUT_S: Final = 600


def pinned() -> list[str]:
    """The images that the Containerfile begins its stages from, as it names them."""
    found = re.findall(r"^FROM (\S+)", CONTAINERFILE.read_text(), re.MULTILINE)
    return sorted(set(found))


def mapped(engine: Engine) -> Iterator[str]:
    """The arguments of `buildah build` that put a stand-in in the place of each pinned image."""
    for name in pinned():
        local = _uv(engine, name) if "/uv:" in name else _python(engine)
        yield f"--build-context={name}=container-image://{local}"


def _python(engine: Engine) -> str:
    """Debian with Python, made once for each state of this file."""
    recipe = Path(__file__).read_bytes() + CERTIFICATES.read_bytes()
    image = f"localhost/python-stand-in:{hashlib.sha256(recipe).hexdigest()[:16]}"
    if engine.has(image):
        return image
    root = engine.folder / "tmp" / "debian"
    shutil.rmtree(root, ignore_errors=True)
    packages = "--include=python3,ca-certificates"
    _made("debootstrap", "--variant=minbase", packages, RELEASE, str(root), MIRROR)
    local = root / "usr" / "local"
    for name in ("python", "python3", "python3.13"):
        (local / "bin" / name).symlink_to("/usr/bin/python3.13")
    _made("uv", "pip", "install", "--quiet", "--target", f"{local}/lib/python3.13/site-packages",
          "pip")  # fmt: skip
    # The real one has neither documents nor bytecode.
    for name in UNNEEDED:
        shutil.rmtree(root / name)
        (root / name).mkdir()
    (root / "var" / "cache" / "apt" / "archives" / "partial").mkdir(parents=True)
    for path in root.rglob("__pycache__"):
        shutil.rmtree(path)
    shutil.copyfile(CERTIFICATES, root / "etc" / "ssl" / "certs" / "ca-certificates.crt")
    _imported(engine, root, image)
    return image


def _uv(engine: Engine, name: str) -> str:
    """An image of the uv binary alone, at the version in the pinned name."""
    version = name.partition("/uv:")[2].partition("@")[0]
    image = f"localhost/uv-stand-in:{version}"
    if not engine.has(image):
        root = engine.folder / "tmp" / "uv"
        shutil.rmtree(root, ignore_errors=True)
        (root / "image").mkdir(parents=True)
        _made("uv", "pip", "install", "--quiet", "--target", f"{root}/package", f"uv=={version}")
        shutil.copy2(root / "package" / "bin" / "uv", root / "image" / "uv")
        _imported(engine, root / "image", image)
        shutil.rmtree(root)
    return image


def _imported(engine: Engine, root: Path, image: str) -> None:
    archive = engine.folder / "tmp" / "image.tar"
    _made("tar", "-C", str(root), "--numeric-owner", "-cf", str(archive), ".")
    engine.run("podman", "import", "--change", 'CMD ["python3"]', archive, image)
    archive.unlink()
    shutil.rmtree(root)


def _made(*command: str) -> None:
    answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert answer.returncode == 0, f"{command}: {answer.stdout[-2000:]}{answer.stderr[-2000:]}"
