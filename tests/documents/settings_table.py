"""The README's table of settings, made of the class; run as a module it prints it."""

from __future__ import annotations

import json
import sys

from service.settings import PREFIX, Settings


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
    sys.stdout.write(rows() + "\n")
