"""Strict JSON Schemas from custom resource definitions: `schemas FOLDER CRD.yaml…`.

One file for each version of each kind, GROUP_VERSION_KIND.json, that refuses unknown fields, as an
API server drops them without a word.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

_DROPPED: Final = ("description", "x-kubernetes-validations", "default")


def strict(schema: Any) -> Any:
    """The schema without its descriptions, with unknown fields refused."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found: dict[str, Any] = {}
    for name, value in schema.items():
        if name == "properties":
            found[name] = {field: strict(each) for field, each in value.items()}
        elif name not in _DROPPED and not name.startswith("x-kubernetes-") and name != "nullable":
            found[name] = strict(value)
    if schema.get("nullable") and isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
    if "properties" in found and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def written(definition: dict[str, Any]) -> dict[str, Any]:
    """The schemas of a definition by their file's name."""
    spec = definition["spec"]
    found: dict[str, Any] = {}
    for version in spec["versions"]:
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"] |= {
            "apiVersion": {"const": f"{spec['group']}/{version['name']}"},
            "kind": {"const": spec["names"]["kind"]},
            "metadata": {"type": "object"},
        }
        schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
        found[f"{spec['group']}_{version['name']}_{spec['names']['kind']}.json"] = schema
    return found


def main() -> None:
    """Read the files named, write the schemas into the folder."""
    import yaml

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:]:
        for definition in yaml.safe_load_all(Path(name).read_text()):
            if definition and definition.get("kind") == "CustomResourceDefinition":
                for file, schema in written(definition).items():
                    (folder / file).write_text(json.dumps(schema))


if __name__ == "__main__":
    main()
