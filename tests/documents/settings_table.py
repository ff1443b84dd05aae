"""The README's table of settings, made of the class; run as a module it writes it there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from service.settings import PREFIX, Settings

README = Path(__file__).parents[2] / "README.md"


def rows() -> str:
    """The whole Markdown table."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        text = default if isinstance(default, str) else json.dumps(default)
        shown = "" if default is None else f"`{text}`"
        lines.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(lines)


if __name__ == "__main__":
    table = re.compile(r"\| Variable \| Default \| Meaning \|\n(?:\|.*\n)+")
    README.write_text(table.sub(lambda _: rows() + "\n", README.read_text(), count=1))
