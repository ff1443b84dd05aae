"""What cannot work is refused with its reason, before anything is sent to a cluster."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.chart import helm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The variant, what is set above it, and words of the sentence that refuses it.
REFUSED: Final[list[tuple[str, str, str]]] = [
    ("sqlite", "replicaCount=2", "the canary is already its second process"),
    ("sqlite", "hpa.enabled=true", "more pods on one file write no faster"),
    ("sqlite", "pdb.enabled=true", "a node could never be drained"),
    ("sqlite", "runtimeClassName=gvisor", "do not share the WAL's memory and locks"),
    ("sqlite", "database.sqlite.accessMode=ReadWriteMany", "network file systems"),
    ("sqlite", "database.sqlite.accessMode=ReadWriteOncePod", "would stay Pending"),
    ("sqlite", "database.sqlite.accessMode=ReadOnlyMany", "Teller writes to the ledger"),
    ("sqlite", "database.sqlite.litestream.enabled=true", "say where to replicate to"),
    ("full", "database.sqlite.litestream.image.tag=0.5.9", "can lose commits beside"),
    ("postgresql", "database.postgresql.existingSecret=", "holds the database's URL"),
    (
        "postgresql",
        "database.sqlite.litestream.enabled=true",
        "Litestream replicates SQLite files",
    ),
    ("postgresql", "replicaCount=1", "pdb.enabled needs replicaCount 2 or more"),
    ("postgresql-scaled", "hpa.minReplicas=9", "hpa.minReplicas is above hpa.maxReplicas"),
    ("no-mesh", "auth.insecure=false", "anybody can withdraw as anybody"),
    ("no-mesh", "auth.mode=jwt", "Istio verifies the token"),
    ("sqlite", "auth.jwt.issuer=", "name the issuer of your users' tokens"),
    ("sqlite", "auth.jwt.jwksUri=", "exactly one of auth.jwt.jwksUri and auth.jwt.jwks"),
    ("sqlite", "auth.jwt.jwks=keys", "exactly one of auth.jwt.jwksUri and auth.jwt.jwks"),
    ("sqlite", "istio.hosts=null", "name at least one public host"),
    ("full", "istio.gateway.existing=", "name a Gateway as namespace/name"),
    ("sqlite", "istio.gateway.credentialName=", "anybody on the way reads the tokens"),
    ("no-mesh", "rollout.enabled=true", "one pod beside one pod is 50 percent"),
    ("sqlite", "rollout.weights={50,25}", "rollout.weights must rise"),
    ("sqlite", "observability.podMonitor.enabled=false", "tells stable from canary"),
    ("sqlite", "rollout.stepPause=2m", "before its own traffic was measured"),
    ("sqlite", "shutdown.gracePeriodSeconds=28", "would kill the pod while it answers"),
    ("sqlite", "settings.port=9000", "settings.port is the chart's own: use service.port"),
    ("sqlite", "settings.auto_migrate=true", "use migrations.enabled"),
    ("sqlite", "istio.timeout=25s", "before Teller can say what happened to the money"),
]

# Of the wrong shape: the schema's own words, which name the value and what it may be.
MALFORMED: Final[list[tuple[str, str]]] = [
    ("replicas=2", "additional properties 'replicas' not allowed"),
    ("database.kind=mysql", "at '/database/kind': value must be one of 'sqlite', 'postgresql'"),
    ("auth.mode=none", "at '/auth/mode': value must be one of 'jwt', 'header'"),
    ("image.digest=latest", "at '/image/digest'"),
    ("replicaCount=0", "at '/replicaCount': minimum"),
    ("database.sqlite.size=lots", "at '/database/sqlite/size'"),
    ("rollout.stepPause=300", "at '/rollout/stepPause'"),
    ("rollout.weights={100}", "at '/rollout/weights/0': maximum"),
    ("observability.metricsPort=8000", "at '/observability/metricsPort'"),
    ("slo.availability=1", "at '/slo/availability'"),
    ("slo.latencySeconds=0.2", "at '/slo/latencySeconds': value must be one of 0.001"),
    ("settings.Currency=EUR", "Currency"),
]


@pytest.mark.parametrize(("variant", "setting", "reason"), REFUSED)
def test_what_cannot_work_is_refused_with_its_reason(
    variant: str, setting: str, reason: str
) -> None:
    assert reason in helm.refused(variant, "--set", setting)


@pytest.mark.parametrize(("setting", "words"), MALFORMED)
def test_what_is_malformed_is_refused_by_name(setting: str, words: str) -> None:
    assert words in helm.refused("sqlite", "--set", setting)


def test_every_rule_of_the_schema_is_seen_to_refuse(tmp_path: Path) -> None:
    """Helm names every value that is wrong; so each round breaks one rule of each value."""
    schema = json.loads((helm.CHART / "values.schema.json").read_text())
    wrong = {path: list(_wrong(rules)) for path, rules in _rules(schema, ())}
    assert sum(map(len, wrong.values())) > 150
    for number in range(max(map(len, wrong.values()))):
        broken = {path: values[number] for path, values in wrong.items() if number < len(values)}
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(_nested(broken)))
        said = helm.refused("sqlite", "-f", str(file))
        named = set(re.findall(r"at '/([^']+)':", said))
        # Helm says another value's path beside this one.
        named |= {"settings"} if "invalid propertyName 'UPPER'" in said else set()
        unseen = {"/".join(path) for path in broken} - named
        assert not {it for it in unseen if not any(n.startswith(f"{it}/") for n in named)}, said


def test_every_sentence_that_refuses_is_seen_to_refuse() -> None:
    text = (helm.CHART / "templates" / "_refusals.tpl").read_text()
    sentences = re.findall(r'fail (?:\(printf )?"([^"]+)"', text)
    assert len(sentences) > 20
    known = [reason for _, _, reason in REFUSED]
    unseen = [
        sentence
        for sentence in sentences
        if not any(reason in sentence or _parts(reason, sentence) for reason in known)
    ]
    assert unseen == []


def test_the_schema_knows_every_value_and_no_other() -> None:
    import yaml

    values = yaml.safe_load((helm.CHART / "values.yaml").read_text())
    schema = json.loads((helm.CHART / "values.schema.json").read_text())
    assert list(_differences(values, schema, "")) == []


def _rules(schema: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every value of the schema that has no values of its own, with its rules."""
    for name, rules in schema["properties"].items():
        if "properties" in rules:
            yield from _rules(rules, (*path, name))
        elif rules != {"type": "object"}:
            yield (*path, name), rules


def _wrong(rules: dict[str, Any]) -> Iterator[Any]:
    """A value for each rule, which breaks it."""
    broken: dict[str, Any] = {
        "type": None,
        "enum": "none of them",
        "pattern": " not\n at all ",
        "minLength": "",
        "minItems": [],
        "uniqueItems": ["twice", "twice"],
        "items": [None],
        "propertyNames": {"UPPER": "x"},
        "additionalProperties": {"name": []},
        "not": rules.get("not", {}).get("enum", [None])[0],
    }
    # Just past each bound.
    for rule, past in (("minimum", -1), ("maximum", 1), ("exclusiveMinimum", 0),
                       ("exclusiveMaximum", 0)):  # fmt: skip
        broken[rule] = rules.get(rule, 0) + past
    known = {"description", "properties"}
    assert rules.keys() <= broken.keys() | known, rules.keys() - broken.keys() - known
    for rule in (it for it in rules if it not in known):
        # Null removes a value instead of breaking its type.
        if rule == "type":
            yield 1 if rules["type"] == "string" else {"a": 1} if rules["type"] != "object" else "x"
        else:
            yield broken[rule]


def _nested(values: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """Values by their paths as one object."""
    found: dict[str, Any] = {}
    for path, value in values.items():
        inner = found
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value
    return found


def _parts(reason: str, sentence: str) -> bool:
    """Whether the sentence, a format with %s, can read as the reason does."""
    pattern = re.escape(sentence).replace("%s", ".+").replace("%d", r"\d+")
    return re.search(pattern, reason) is not None or (
        "is the chart's own" in sentence and "is the chart's own" in reason
    )


def _differences(values: Any, schema: dict[str, Any], path: str) -> Any:
    if not isinstance(values, dict) or "properties" not in schema:
        return
    optional = {"global", "ephemeral-storage"}
    yield from (f"{path}/{it}" for it in schema["properties"].keys() - values.keys() - optional)
    for name, value in values.items():
        if name not in schema["properties"]:
            yield f"{path}/{name}"
        else:
            yield from _differences(value, schema["properties"][name], f"{path}/{name}")
