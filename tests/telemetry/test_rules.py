"""Each alert fires on what it is for, and stays silent on what it is not: promtool's own tests."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import promql_parser
import pytest
import yaml

from tests.parts import part

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "chart" / "files" / "rules.yaml"
INSTALL: Final = "apt-get install --no-install-recommends prometheus"
POD: Final = 'namespace="bank", pod="teller-0"'
POST: Final = f'job="teller", {POD}, http_request_method="POST", http_route="/deposit"'
COUNT: Final = "http_server_request_duration_seconds_count"
BUCKET: Final = "http_server_request_duration_seconds_bucket"
OK: Final = f'{COUNT}{{{POST}, http_response_status_code="201"}}'
FAILED: Final = f'{COUNT}{{{POST}, http_response_status_code="503"}}'
QUICK: Final = f'{BUCKET}{{{POST}, http_response_status_code="201", le="0.25"}}'
QUICKLY_FAILED: Final = f'{BUCKET}{{{POST}, http_response_status_code="503", le="0.25"}}'
PROBES: Final = (
    f'{COUNT}{{job="teller", {POD}, http_request_method="GET", http_route="/readyz", '
    'http_response_status_code="503"}'
)
NEW: Final = f'teller_idempotency_results_total{{{POD}, result="new"}}'
MISMATCH: Final = f'teller_idempotency_results_total{{{POD}, result="mismatch"}}'
AUDITED: Final = f"teller_ledger_audit_timestamp_seconds{{{POD}}}"
ROLLOUT: Final = 'rollout_info{namespace="bank", name="teller", phase="%s"}'

# A sample a minute of a service in good health. Those of Litestream, Argo Rollouts and a pool near
# its end are recorded: what such a cluster would show.
HEALTHY: Final = {
    f'up{{job="teller", {POD}}}': "1x2000",
    OK: "0+600x2000",
    QUICK: "0+599x2000",
    PROBES: "0+60x2000",
    f'teller_ledger_violations{{{POD}, kind="row-edited"}}': "0x2000",
    f"teller_ledger_imbalance_minor{{{POD}}}": "0x2000",
    AUDITED: "0+60x2000",
    NEW: "0+600x2000",
    MISMATCH: "0+1x2000",
    f"teller_queue_depth{{{POD}}}": "10x2000",
    f"teller_queue_depth_max{{{POD}}}": "8192x2000",
    f"teller_queue_oldest_age_seconds{{{POD}}}": "0.01x2000",
    f"teller_volume_available_bytes{{{POD}}}": "800x2000",
    f"teller_volume_size_bytes{{{POD}}}": "1000x2000",
    f"litestream_sync_error_count{{{POD}}}": "0x2000",
    f"litestream_sync_count{{{POD}}}": "0+60x2000",
    f"litestream_disk_full{{{POD}}}": "0x2000",
    ROLLOUT % "Healthy": "1x2000",
    f'teller_pool_connections{{{POD}, pool="readers"}}': "1x2000",
    f'teller_pool_connections_max{{{POD}, pool="readers"}}': "2x2000",
}

# What differs from good health, for how many minutes, and which alerts fire then.
CASES: Final[dict[str, tuple[Mapping[str, str | None], int, set[str]]]] = {
    "nothing in good health": ({}, 1500, set()),
    "nothing while a few requests fail of very few": (
        {OK: "0+1x2000", FAILED: "0+1x2000", QUICK: "0+1x2000"},
        60,
        set(),
    ),
    "nothing for refusals, however many": (
        {
            f'{COUNT}{{{POST}, http_response_status_code="402"}}': "0+6000x2000",
            f'{BUCKET}{{{POST}, http_response_status_code="402", le="0.25"}}': "0+6000x2000",
        },
        60,
        set(),
    ),
    "a fast burn": (
        {FAILED: "0+12x2000", QUICKLY_FAILED: "0+12x2000"},
        60,
        {"TellerErrorBudgetFast", "TellerErrorBudgetSlow", "TellerErrorBudgetTicket"},
    ),
    "a slow burn": (
        {FAILED: "0+6x2000", QUICKLY_FAILED: "0+6x2000"},
        510,
        {"TellerErrorBudgetSlow", "TellerErrorBudgetTicket"},
    ),
    "a burn for a ticket": (
        {FAILED: "0+1.2x2000", QUICKLY_FAILED: "0+1.2x2000"},
        1500,
        {"TellerErrorBudgetTicket"},
    ),
    "a burn that is over": (
        {FAILED: "0+12x60 720x2000", QUICKLY_FAILED: "0+12x60 720x2000"},
        210,
        {"TellerErrorBudgetTicket"},
    ),
    "most POSTs slow": (
        {QUICK: "0+300x2000"},
        120,
        {"TellerLatencyBudgetFast", "TellerLatencyBudgetTicket"},
    ),
    "a few POSTs too many slow": ({QUICK: "0+588x2000"}, 1500, {"TellerLatencyBudgetTicket"}),
    "a violation": (
        {f'teller_ledger_violations{{{POD}, kind="row-edited"}}': "0x9 1x2000"},
        11,
        {"TellerLedgerImbalance"},
    ),
    "an imbalance below zero": (
        {f"teller_ledger_imbalance_minor{{{POD}}}": "0x9 -1x2000"},
        11,
        {"TellerLedgerImbalance"},
    ),
    "an audit that stands still": ({AUDITED: "0+60x10 600x2000"}, 60, {"TellerAuditStale"}),
    "an audit that is not there": ({AUDITED: None}, 20, {"TellerAuditStale"}),
    "keys reused": ({MISMATCH: "0+60x2000"}, 20, {"TellerMismatchSpike"}),
    "a queue nearly full": (
        {f"teller_queue_depth{{{POD}}}": "7000x2000"},
        5,
        {"TellerWriterSaturated"},
    ),
    "a movement that waits": (
        {f"teller_queue_oldest_age_seconds{{{POD}}}": "9x2000"},
        5,
        {"TellerWriterSaturated"},
    ),
    "a queue full for a moment": (
        {f"teller_queue_depth{{{POD}}}": "10x3 8000 10x2000"},
        8,
        set(),
    ),
    "a volume with little left": (
        {f"teller_volume_available_bytes{{{POD}}}": "100x2000"},
        60,
        {"TellerVolumeFilling"},
    ),
    "a volume full in three days": (
        {f"teller_volume_available_bytes{{{POD}}}": "800-0.15x2000"},
        420,
        {"TellerVolumeFilling"},
    ),
    "a volume almost full": (
        {f"teller_volume_available_bytes{{{POD}}}": "40x2000"},
        20,
        {"TellerVolumeAlmostFull"},
    ),
    "replication that fails": (
        {f"litestream_sync_error_count{{{POD}}}": "0+1x2000"},
        30,
        {"TellerReplicationStalled"},
    ),
    "replication that stands still": (
        {f"litestream_sync_count{{{POD}}}": "100x2000"},
        30,
        {"TellerReplicationStalled"},
    ),
    "replication out of disk": (
        {f"litestream_disk_full{{{POD}}}": "1x2000"},
        30,
        {"TellerReplicationStalled"},
    ),
    "a rollout aborted": ({ROLLOUT % "Degraded": "1x2000"}, 5, {"TellerRolloutDegraded"}),
    "a rollout paused for long": ({ROLLOUT % "Paused": "1x2000"}, 70, {"TellerRolloutPaused"}),
    "a rollout paused for ten minutes": ({ROLLOUT % "Paused": "1x10 0x2000"}, 70, set()),
    "every pod down": (
        {f'up{{job="teller", {POD}}}': "1x5 0x2000", AUDITED: "0+60x2000"},
        10,
        {"TellerDown"},
    ),
    "no target at all": ({f'up{{job="teller", {POD}}}': None}, 10, {"TellerDown"}),
    "a pool without a connection to spare": (
        {f'teller_pool_connections{{{POD}, pool="readers"}}': "2x2000"},
        10,
        {"TellerPoolSaturated"},
    ),
}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_promtool_takes_the_rules() -> None:
    promtool = part("promtool", INSTALL)
    subprocess.run([promtool, "check", "rules", RULES], check=True, timeout=30)


@pytest.mark.parametrize("case", CASES)
def test_fires(case: str, tmp_path: Path) -> None:
    promtool = part("promtool", INSTALL)
    differs, minutes, firing = CASES[case]
    series = {name: values for name, values in {**HEALTHY, **differs}.items() if values}
    test = {
        "rule_files": [str(RULES)],
        "group_eval_order": ["teller-objectives", "teller-slo", "teller-alerts"],
        # Recording rules over days are dear: over hours, every half hour is often enough.
        "evaluation_interval": "1m" if minutes <= 120 else "30m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": k, "values": v} for k, v in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{minutes}m",
                        "exp_samples": [
                            {"labels": f'{{alertname="{name}"}}', "value": 1}
                            for name in sorted(firing)
                        ],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [promtool, "test", "rules", file], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fired = {name for _, _, firing in CASES.values() for name in firing}
    assert {alert["alert"] for alert in alerts()} == fired
    assert any(not firing for _, _, firing in CASES.values())


def test_every_alert_has_its_runbook_in_the_notes_and_a_severity() -> None:
    notes = (ROOT / "NOTES.md").read_text()
    for alert in alerts():
        name = alert["alert"]
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert alert["annotations"]["runbook"] == f"NOTES.md, Runbooks, {name}"
        assert f"\n#### {name}\n" in notes
    headings = {line[5:] for line in notes.splitlines() if line.startswith("#### Teller")}
    assert headings == {alert["alert"] for alert in alerts()}


def test_every_expression_of_the_rules_parses() -> None:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            promql_parser.parse(rule["expr"])
