"""The image holds what it must and nothing else, and the same commit makes the same one."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from tests.chart import helm, manifests
from tests.container import bases
from tests.container import image as images
from tests.parts import part

if TYPE_CHECKING:
    from pathlib import Path

    from tests.container.engine import Engine

# What installs or compiles, by the names of commands and of Python packages.
TOOLS: Final = {
    *("uv", "uvx", "pip", "pip3", "pip3.13", "ensurepip", "setuptools", "wheel", "hatchling"),
    *("gcc", "cc", "g++", "c++", "cpp", "ld", "as", "strip", "objdump", "make", "git", "curl"),
}
UNCHECKED: Final = b"\x01\x00\x00\x00"


def test_hadolint_finds_nothing() -> None:
    hadolint = part("hadolint", "uv sync --group chart")
    answer = subprocess.run(
        [hadolint, bases.CONTAINERFILE], capture_output=True, text=True, check=False
    )
    assert (answer.returncode, answer.stdout) == (0, "")


def test_every_base_is_named_literally_by_its_digest_and_python_is_one() -> None:
    python, uv = bases.pinned()
    assert re.fullmatch(r"docker\.io/library/python:3\.13-slim@sha256:[0-9a-f]{64}", python)
    assert re.fullmatch(r"ghcr\.io/astral-sh/uv:0\.12\.21@sha256:[0-9a-f]{64}", uv)
    text = bases.CONTAINERFILE.read_text()
    assert text.count(f"FROM {python}") == 2
    assert f'base.digest="{python.partition("@")[2]}"' in text


def test_it_has_the_locked_packages_and_no_others(engine: Engine, image: str) -> None:
    export = subprocess.run(
        ["uv", "export", "--locked", "--no-default-groups", "--no-hashes", "--no-annotate"],
        cwd=images.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # Those for other systems are named in the lock too, with the condition.
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", export, re.MULTILINE))
    elsewhere = {
        name.lower() for name in re.findall(r"^([\w.-]+)==\S+ ; .*win32'$", export, re.MULTILINE)
    } - {"uvloop"}
    found = {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in images.contents(engine, image).python.items()
    }
    assert found.pop("teller") == "0.1.0"
    assert found.items() <= locked.items()
    assert locked.keys() - found.keys() <= elsewhere
    assert len(found) > 40


def test_debian_s_packages_are_the_base_s_alone(engine: Engine, image: str) -> None:
    base = next(bases.mapped(engine)).partition("container-image://")[2]
    with engine.mounted(base) as root:
        status = (root / "var" / "lib" / "dpkg" / "status").read_text()
    with engine.mounted(image) as root:
        assert (root / "var" / "lib" / "dpkg" / "status").read_text() == status


def test_nothing_that_installs_or_compiles_is_left(engine: Engine, image: str) -> None:
    base = next(bases.mapped(engine)).partition("container-image://")[2]
    with engine.mounted(base) as root:
        # The search finds what there is to find.
        assert "pip" in _names(root)
    with engine.mounted(image) as root:
        assert _names(root) & TOOLS == set()
        assert not (root / "root" / ".cache").exists()
        assert not (root / "src").exists()


def test_no_start_compiles_anything(engine: Engine, image: str) -> None:
    """A read-only root could not keep it; and a time in it would differ from build to build."""
    with engine.mounted(image) as root:
        packages = images.site_packages(root)
        for source in (*packages.glob("service/*.py"), images.standard_library(root) / "abc.py"):
            (compiled,) = source.parent.glob(f"__pycache__/{source.stem}.cpython-*.pyc")
            assert compiled.read_bytes()[4:8] == UNCHECKED


def test_it_runs_as_the_chart_s_user_and_says_what_it_is(engine: Engine, image: str) -> None:
    pod = manifests.workload(helm.rendered("sqlite"))["spec"]["template"]["spec"]
    configuration = images.configuration(engine, image)
    config = configuration["config"]
    ids = (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"])
    assert config["User"] == "{}:{}".format(*ids) == "10001:10001"
    assert (config["Entrypoint"], config["Cmd"]) == (["teller"], ["serve"])
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["ExposedPorts"]) == ["8000/tcp"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "Teller"
    assert labels["org.opencontainers.image.version"] == "test"
    assert labels["org.opencontainers.image.base.name"] == "docker.io/library/python:3.13-slim"


def test_its_sqlite_is_safe_for_two_processes(engine: Engine, image: str) -> None:
    program = "from service.sqlite import driver; print(driver.sqlite_version)"
    said = engine.run(
        *("podman", "run", "--rm", "--network=none", "--read-only", "--entrypoint=python"),
        *(image, "-c", program),
    )
    assert said == "3.53.4\n"


def test_the_readme_s_command_serves_with_nothing_writable_but_its_volume(
    engine: Engine, image: str
) -> None:
    readme = (images.ROOT / "README.md").read_text()
    (told,) = re.findall(r"^docker run (.*) teller (serve --seed)$", readme, re.MULTILINE)
    assert told[0] == "--read-only -v ledger:/data -p 127.0.0.1:8000:8000"
    # Podman would lend a temporary folder, as Docker does not.
    engine.run(
        *("podman", "run", "--detach", "--name=readme", "--network=none", "--read-only"),
        *("--read-only-tmpfs=false", "--volume=readme:/data", image, *told[1].split()),
    )
    try:
        ask = (
            "import time, urllib.request as r\n"
            "for _ in range(300):\n"
            "    try: print(r.urlopen(r.Request('http://127.0.0.1:8000/balance', "
            "headers={'user_id': 'alice'})).status); break\n"
            "    except OSError: time.sleep(0.2)\n"
        )
        assert engine.run("podman", "exec", "readme", "python", "-c", ask) == "200\n"
        engine.run("podman", "stop", "--time=45", "readme")
        status = engine.run("podman", "inspect", "--format={{.State.ExitCode}}", "readme")
        assert status == "0\n"
    finally:
        engine.run("podman", "rm", "--force", "--time=0", "readme")


def test_a_second_build_of_the_same_tree_gives_the_same_layers(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    """From another folder, with other times on its files and beside what no image should hold."""
    other = tmp_path / "elsewhere"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=images.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, tracked.split("\0")):
        if (images.ROOT / name).is_file():
            (other / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(images.ROOT / name, other / name)
    (other / ".env").write_text("TELLER_CURRENCY=XXX\n")
    (other / "service" / "__pycache__").mkdir()
    (other / "service" / "__pycache__" / "stale.pyc").write_bytes(b"stale")
    again = images.build(engine, "again", source=other)
    assert images.layers(engine, again) == images.layers(engine, image)


def _names(root: Path) -> set[str]:
    """The names of commands, of Python's packages and of the library's modules."""
    folders = [
        *(root / name for name in ("usr/bin", "usr/local/bin", "usr/sbin", "opt/teller/bin")),
        *root.glob("usr/**/python3*/site-packages"),
        images.site_packages(root) if (root / "opt" / "teller").exists() else root,
        images.standard_library(root),
    ]
    return {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}
