"""The table of values in the chart's README: written from the comments in values.yaml.

`python -m tests.chart.values_table` compares them; `--write` writes.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from tests.chart.helm import CHART

if TYPE_CHECKING:
    from collections.abc import Iterator

README: Final = CHART / "README.md"
VALUES: Final = CHART / "values.yaml"
BEGIN: Final = "<!-- values: begin -->\n"
END: Final = "<!-- values: end -->\n"
MARK: Final = "# -- "


def written(text: str) -> list[tuple[str, str]]:
    """The values that have a ``# --`` comment, as (dotted name, comment), in their order.

    A comment goes on over further ``#`` lines, and speaks of the key on the next line.
    """
    found = []
    path: list[tuple[int, str]] = []
    comment: str | None = None
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(MARK):
            comment = stripped.removeprefix(MARK)
        elif stripped.startswith("#"):
            if comment is not None:
                comment += " " + stripped.removeprefix("#").strip()
        elif not stripped:
            comment = None
        elif ":" in stripped:
            indent = len(line) - len(line.lstrip())
            path = [(depth, name) for depth, name in path if depth < indent]
            path.append((indent, stripped.split(":", 1)[0]))
            if comment is not None:
                found.append((".".join(name for _, name in path), comment))
            comment = None
    return found


def leaves(values: Any, names: set[str], prefix: str = "") -> Iterator[str]:
    """Every value that a line must stand for: one named, or one that holds no further ones."""
    for name, value in values.items():
        path = f"{prefix}{name}"
        if path not in names and isinstance(value, dict) and value:
            yield from leaves(value, names, f"{path}.")
        else:
            yield path


def table() -> str:
    """The table as Markdown.

    Raises:
        SystemExit: a value has no comment, or a comment has no value.
    """
    import yaml

    text = VALUES.read_text()
    values = yaml.safe_load(text)
    comments = dict(written(text))
    wanted = list(leaves(values, set(comments)))
    if wanted != list(comments):
        odd = sorted(set(wanted) ^ set(comments)) or "their order"
        sys.exit(f"values.yaml: a line '{MARK}' is missing or stands for nothing: {odd}")
    lines = ["| Value | Default | |", "|---|---|---|"]
    for path in wanted:
        default = values
        for name in path.split("."):
            default = default[name]
        shown = json.dumps(default, ensure_ascii=False)
        lines.append(f"| `{path}` | `{shown}` | {comments[path].replace('|', '&#124;')} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare the README's table with values.yaml, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into README.md")
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    whole = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if parser.parse_args().write:
        README.write_text(whole)
    elif whole != text:
        sys.exit(f"{README} is behind values.yaml: python -m tests.chart.values_table --write")


if __name__ == "__main__":
    main()
