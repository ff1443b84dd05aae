"""Each `run:` step of the workflows, run here by its own words as far as its parts exist here.

REAL are steps that ran here with all that they call. PARTLY ran here, but what reaches outside is a
stand-in that notes how it was called: named beside each. ELSEWHERE never ran here. NOTES.md,
"what no workflow has shown yet", has the same names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.chart import helm
from tests.pipeline.workspace import ROOT, VERSION, Workspace, steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIGEST: Final = f"sha256:{'d' * 64}"
REAL: Final = {
    "ci/stages/The workspace belongs to another user than the container's",
    "deploy/deploy/The environment's values",
    "nightly/bench/The workspace belongs to another user than the container's",
    "nightly/campaign/The workspace belongs to another user than the container's",
    "release/check/Versions",
    "release/chart/Package with the image's digest in it",
    "release/image/The commit's time, for a reproducible build",
    "release/release/Notes from the changelog's section",
}
PARTLY: Final = {
    "ci/stages/The schemas of the custom resources": "the host of the definitions",
    "ci/stages/The stages": "uv; .ci/run itself decides here whether a change lands",
    "deploy/deploy/A kubeconfig with a token of this job": "GitHub's issuer",
    "deploy/deploy/The plugin that waits for a canary": "the host of the plugin",
    "deploy/deploy/Verify, upgrade, wait, or undo": "cosign, helm, kubectl",
    "e2e/kind/A good release, its successor, and a bad one": "docker, kind",
    "e2e/kind/Istio, Argo Rollouts and Prometheus": "helm, kubectl",
    "e2e/kind/The plugin that drives releases": "the host of the plugin",
    "release/chart/Push": "helm's registry",
    "release/chart/Sign the digest": "cosign",
    "release/image/Only now a tag": "docker",
    "release/image/Sign the digest": "cosign",
    "release/release/Release": "gh",
}
ELSEWHERE: Final = {
    "ci/stages/Git, before the checkout, so that it makes a repository": "installs packages",
    "ci/stages/uv": "installs packages",
    "e2e/kind/Releases under load, and the checker": "a cluster",
    "nightly/bench/Bench": "an hour",
    "nightly/bench/Git, before the checkout, so that it makes a repository": "installs packages",
    "nightly/bench/What the tests need": "installs packages; .ci/run does it",
    "nightly/bench/uv": "installs packages",
    "nightly/campaign/Campaign": "an hour",
    "nightly/campaign/Git, before the checkout, so that it makes a repository": (
        "installs packages"
    ),
    "nightly/campaign/What the tests need": "installs packages; .ci/run does it",
    "nightly/campaign/uv": "installs packages",
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """A stand-in for a host of files: those in the folder `host`."""
    with served(tmp_path / "host") as url:
        yield url


class served:  # noqa: N801 -- a context manager
    """The address of a server of a folder's files; its queries are dropped."""

    def __init__(self, folder: Path) -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                file = folder / self.path.split("?")[0].lstrip("/")
                body = file.read_bytes() if file.is_file() else b"not found"
                self.send_response(200 if file.is_file() else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


# -- which there are ----------------------------------------------------------------------------


def test_each_step_ran_here_or_in_part_or_is_named_as_one_that_did_not() -> None:
    named = [*REAL, *PARTLY, *ELSEWHERE]
    assert sorted(named) == sorted(steps())


def test_the_notes_name_what_did_not_run_here_and_what_stood_in() -> None:
    notes = (ROOT / "NOTES.md").read_text()
    section = notes.partition("what no workflow has shown yet")[2].partition("\n### ")[0]
    section = " ".join(section.split())
    missing = [name for name in (*PARTLY, *ELSEWHERE) if name.split("/")[2] not in section]
    assert missing == []


# -- release ------------------------------------------------------------------------------------


def test_the_tag_of_a_release_that_everything_agrees_with_passes(workspace: Workspace) -> None:
    assert workspace.run("release/check/Versions", {}).returncode == 0
    other = workspace.run("release/check/Versions", {"GITHUB_REF_NAME": "v1.3.0"})
    assert other.returncode == 1


def test_the_image_s_time_is_the_commit_s(workspace: Workspace) -> None:
    assert (
        workspace.run("release/image/The commit's time, for a reproducible build", {}).returncode
        == 0
    )
    seconds = subprocess.run(
        ["git", "log", "-1", "--format=%ct"],
        cwd=workspace.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (workspace.temp / "env").read_text() == f"SOURCE_DATE_EPOCH={seconds.stdout.strip()}\n"


@pytest.mark.parametrize(
    ("step", "env", "call"),
    [
        (
            "release/image/Sign the digest",
            {"IMAGE": "ghcr.io/acme/teller"},
            f"cosign sign --yes ghcr.io/acme/teller@{DIGEST}",
        ),
        (
            "release/chart/Sign the digest",
            {"CHARTS": "ghcr.io/acme/charts"},
            f"cosign sign --yes ghcr.io/acme/charts/teller@{DIGEST}",
        ),
        (
            "release/image/Only now a tag",
            {"IMAGE": "ghcr.io/acme/teller"},
            (
                "docker buildx imagetools create --tag "
                f"ghcr.io/acme/teller:{VERSION} ghcr.io/acme/teller@{DIGEST}"
            ),
        ),
    ],
)
def test_what_is_signed_and_tagged_is_the_digest(
    workspace: Workspace, step: str, env: dict[str, str], call: str
) -> None:
    workspace.stand_in("cosign")
    workspace.stand_in("docker")
    assert workspace.run(step, {**env, "DIGEST": DIGEST}).returncode == 0
    assert workspace.calls == [call]


def test_the_packaged_chart_names_the_image_by_its_digest_and_is_pushed(
    workspace: Workspace,
) -> None:
    workspace.program(helm.binary("helm"))
    packaged = workspace.run(
        "release/chart/Package with the image's digest in it", {"DIGEST": DIGEST}
    )
    assert packaged.returncode == 0, packaged.stderr
    package = workspace.root / "dist" / f"teller-{VERSION}.tgz"
    values = helm.run("show", "values", str(package)).stdout
    assert f'  digest: "{DIGEST}"\n' in values
    (workspace.programs / "helm").unlink()
    workspace.stand_in("helm", f'echo "Pushed: ghcr.io/x"; echo "Digest: {DIGEST}"')
    pushed = workspace.run("release/chart/Push", {"CHARTS": "ghcr.io/acme/charts"})
    assert pushed.returncode == 0, pushed.stderr
    assert (workspace.temp / "output").read_text() == f"digest={DIGEST}\n"
    assert workspace.calls == [f"helm push dist/teller-{VERSION}.tgz oci://ghcr.io/acme/charts"]


def test_a_release_has_its_section_of_the_changelog_and_its_assets(workspace: Workspace) -> None:
    workspace.stand_in("gh", "cat notes.md >&2")
    (workspace.root / "assets").mkdir()
    (workspace.root / "assets" / "sbom.spdx.json").write_text("{}")
    notes = workspace.run("release/release/Notes from the changelog's section", {})
    assert notes.returncode == 0, notes.stderr
    made = workspace.run("release/release/Release", {})
    assert made.stderr == "### Fixed\n\n- A thing.\n"
    assert workspace.calls == [
        f"gh release create v{VERSION} --verify-tag --notes-file notes.md assets/sbom.spdx.json"
    ]


# -- deploy -------------------------------------------------------------------------------------


def test_the_environment_s_values_reach_helm_as_they_are(workspace: Workspace) -> None:
    values = "istio:\n  hosts: ['$HOME \"x\"']\n"
    assert (
        workspace.run("deploy/deploy/The environment's values", {"VALUES": values}).returncode == 0
    )
    assert (workspace.temp / "values.yaml").read_text() == values


def test_kubectl_gets_a_token_of_the_job_each_time_it_needs_one(
    workspace: Workspace, host: str, tmp_path: Path
) -> None:
    def part(claims: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()

    (tmp_path / "host").mkdir()
    token = f"{part({'alg': 'RS256'})}.{part({'sub': 'repo:acme/teller', 'exp': 1_900_000_000})}.x"
    (tmp_path / "host" / "token").write_text(json.dumps({"value": token}))
    env = {
        "CLUSTER_SERVER": "https://127.0.0.1:1",
        "CLUSTER_CA": "Y2E=",
        "CLUSTER_AUDIENCE": "teller",
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{host}/token?a=b",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of-the-job",
    }
    made = workspace.run("deploy/deploy/A kubeconfig with a token of this job", env)
    assert made.returncode == 0, made.stderr
    config = workspace.temp / "kubeconfig"
    assert token not in config.read_text()
    shown = subprocess.run(
        [
            *(helm.binary("kubectl"), "--kubeconfig", config, "config", "view", "--output"),
            "jsonpath={.users[0].user.exec.command} {.users[0].user.exec.args[0]}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    script, word = shown.stdout.split()
    said = subprocess.run(
        [script, word],
        env={**env, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    credential = json.loads(said.stdout)
    assert credential["kind"] == "ExecCredential"
    assert credential["status"] == {"token": token, "expirationTimestamp": "2030-03-17T17:46:40Z"}


PLUGIN_STEPS = (
    "deploy/deploy/The plugin that waits for a canary",
    "e2e/kind/The plugin that drives releases",
)


@pytest.mark.parametrize("step", PLUGIN_STEPS)
@pytest.mark.parametrize("sound", [True, False])
def test_the_plugin_is_installed_only_with_its_sum(
    workspace: Workspace,
    step: str,
    sound: bool,  # noqa: FBT001 -- a case
) -> None:
    digest = hashlib.sha256(b"plugin" if sound else b"another").hexdigest()
    file = "kubectl-argo-rollouts-linux-amd64"
    workspace.stand_in(
        "curl",
        f'case "${{@: -1}}" in *checksums.txt) echo "{digest}  {file}" >"${{@: -2:1}}" ;; '
        '*) printf plugin >"${@: -2:1}" ;; esac',
    )
    ran = workspace.run(step, {"BIN": str(workspace.temp / "bin")})
    installed = workspace.temp / "bin" / "kubectl-argo-rollouts"
    assert (ran.returncode == 0) == sound
    assert installed.exists() == sound
    assert "/v1.9.1/" in workspace.calls[0]


DEPLOY: Final = "deploy/deploy/Verify, upgrade, wait, or undo"
SIGNER: Final = (
    "--certificate-oidc-issuer https://token.actions.githubusercontent.com --certificate-identity "
    f"https://github.com/acme/teller/.github/workflows/release.yml@refs/tags/v{VERSION}"
)


def deployed(workspace: Workspace, *, signed: str = "exit 0", healthy: str = "exit 0") -> int:
    """Run the deployment with stand-ins that do so; its exit status."""
    workspace.stand_in(
        "helm",
        f"""case $1 in
        pull) echo "Digest: sha256:{"c" * 64}" ;;
        show) printf 'image:\\n  digest: "{DIGEST}"\\n' ;;
        esac""",
    )
    workspace.stand_in("cosign", signed)
    workspace.stand_in("kubectl", f'[[ "$*" != *"--timeout 45m"* ]] || {healthy}')
    env = {"VERSION": VERSION, "NAMESPACE": "pay"}
    return workspace.run(DEPLOY, env).returncode


def test_a_deployment_verifies_both_digests_upgrades_with_the_chart_s_flags_and_waits(
    workspace: Workspace,
) -> None:
    assert deployed(workspace) == 0
    calls = [call for call in workspace.calls if not call.startswith("helm show")]
    assert calls[1] == f"cosign verify {SIGNER} ghcr.io/acme/charts/teller@sha256:{'c' * 64}"
    assert calls[2] == f"cosign verify {SIGNER} ghcr.io/acme/teller@{DIGEST}"
    assert calls[3].startswith("helm upgrade teller ")
    assert calls[3].endswith("--server-side=false --wait=legacy --timeout 10m")
    assert calls[4:] == ["kubectl argo rollouts status teller --namespace pay --timeout 45m"]


def test_a_deployment_whose_signature_is_not_the_release_s_changes_nothing(
    workspace: Workspace,
) -> None:
    assert deployed(workspace, signed="exit 1") == 1
    assert [call for call in workspace.calls if "upgrade" in call or "kubectl" in call] == []


def test_a_deployment_whose_canary_fails_is_aborted_undone_and_fails(workspace: Workspace) -> None:
    assert deployed(workspace, healthy="exit 1") == 1
    assert workspace.calls[-3:] == [
        "kubectl argo rollouts abort teller --namespace pay",
        "kubectl argo rollouts undo teller --namespace pay",
        "kubectl argo rollouts status teller --namespace pay --timeout 10m",
    ]


# -- ci, e2e, nightly ---------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["ci/stages", "nightly/bench", "nightly/campaign"])
def test_git_trusts_the_workspace(workspace: Workspace, job: str) -> None:
    step = f"{job}/The workspace belongs to another user than the container's"
    assert workspace.run(step, {}).returncode == 0
    assert str(workspace.root) in (workspace.home / ".gitconfig").read_text()


def test_the_stages_that_a_job_names_are_run_and_no_other(workspace: Workspace) -> None:
    workspace.stand_in("uv")
    ran = workspace.run("ci/stages/The stages", {"STAGES": "lint imports"})
    assert ran.returncode == 0, ran.stderr
    assert [call.rpartition("--group lint ")[2] for call in workspace.calls] == [
        "ruff check .",
        "lint-imports",
    ]
    unknown = workspace.run("ci/stages/The stages", {"STAGES": "lint imaginary"})
    assert unknown.returncode == 2


@pytest.mark.parametrize("sound", [True, False])
def test_the_schemas_are_made_only_of_definitions_with_their_sums(
    workspace: Workspace,
    host: str,
    tmp_path: Path,
    sound: bool,  # noqa: FBT001 -- a case
) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "crd.yaml").write_text("kind: CustomResourceDefinition\n")
    text = (tmp_path / "host" / "crd.yaml").read_bytes()
    digest = hashlib.sha256(text if sound else b"another").hexdigest()
    (tmp_path / "pins").write_text(f"# pins\ncrd.yaml\t{digest}\tv1\n")
    workspace.stand_in("uv")
    ran = workspace.run(
        "ci/stages/The schemas of the custom resources",
        {"CRDS": str(tmp_path / "pins"), "CRDS_FROM": host},
    )
    assert (ran.returncode == 0) == sound
    assert [call.split(" python ")[1].split()[:2] for call in workspace.calls] == (
        [["-m", "tests.chart.schemas"]] if sound else []
    )


def test_the_stack_is_installed_by_version_and_not_where_a_sum_is_another(
    workspace: Workspace,
) -> None:
    # `helm pull` brings an empty package, whose sum is not the pinned one.
    workspace.stand_in(
        "helm",
        '[[ $1 != pull ]] || : >"${@: -1}/$2-$6.tgz"',
    )
    workspace.stand_in("kubectl")
    ran = workspace.run("e2e/kind/Istio, Argo Rollouts and Prometheus", {})
    assert ran.returncode != 0
    done = [call.split()[2] for call in workspace.calls if call.startswith("helm upgrade")]
    assert done == ["istio-base", "istiod", "istio-ingress"]
    assert "argo-rollouts-2.41.0.tgz: FAILED" in ran.stdout + ran.stderr
    rows = workspace.root / "tests" / "cluster" / "stack.tsv"
    empty = hashlib.sha256(b"").hexdigest()
    rows.write_text(
        rows.read_text().replace(
            "ff53d617efb369cd07acc595309e7fa73a602576375e0a52a78dab1e2d970df5", empty
        )
    )
    ran = workspace.run("e2e/kind/Istio, Argo Rollouts and Prometheus", {})
    assert ran.returncode == 0, ran.stderr
    assert workspace.calls[-1] == "kubectl apply --filename proxies.yaml"


def test_three_releases_are_built_and_loaded(workspace: Workspace) -> None:
    workspace.stand_in("docker")
    workspace.stand_in("kind")
    ran = workspace.run("e2e/kind/A good release, its successor, and a bad one", {})
    assert ran.returncode == 0, ran.stderr
    assert [call.split()[:2] for call in workspace.calls] == [
        *([["docker", "build"]] * 3),
        ["kind", "load"],
    ]
    assert workspace.calls[-1].endswith(
        "--name teller localhost/teller:1 localhost/teller:2 localhost/teller:bad"
    )
