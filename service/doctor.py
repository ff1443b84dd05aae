"""Find from outside what breaks a service like this in practice, and print the line that mends it.

Only requests that Teller refuses with 4xx are sent: they are persisted nowhere and move nothing.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urljoin

import httpx

from service.errors import CODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CLOCK_APART_MAX_S: Final = 5
BODY_BYTES: Final = 16 * 1024  # what Teller takes, to the byte
USER: Final = "teller-doctor"
KEY: Final = "teller-doctor"
REQUEST_ID: Final = "teller-doctor-request"

# An amount of zero is refused after user, key, media type and body were all accepted.
_REFUSED_LAST: Final = b'{"amount": "0"}'
_JSON: Final = {"Content-Type": "application/json"}
_ASSET: Final = re.compile(r'(?:src|href)="([^"]+)"')


class Finding(NamedTuple):
    """What one check saw.

    Attributes:
        name: of the check.
        ok: whether all is as it must be.
        seen: what was seen, in a sentence.
        remedy: the proxies that can be the cause, each with the line that mends it.
    """

    name: str
    ok: bool
    seen: str
    remedy: Mapping[str, str] = {}


class Unreachable(Exception):  # noqa: N818 - the condition, not a fault of the code
    """Nothing answers at the address; the message says what to try."""


def examine(url: str, *, headers: Mapping[str, str]) -> Iterator[Finding]:
    """Check a running Teller through whatever stands in front of it, one finding at a time.

    Args:
        url: where clients reach it, such as https://bank.example; a path before /deposit is kept.
        headers: sent with every request, such as an Authorization that the proxy asks for.

    Raises:
        Unreachable: nothing answers there, or TLS fails.
    """
    base = url.rstrip("/") + "/"
    with httpx.Client(
        base_url=base, headers=dict(headers), timeout=10, follow_redirects=False
    ) as client:
        for check in _CHECKS:
            try:
                yield check(client)
            except httpx.HTTPError as error:
                if check is _CHECKS[0]:
                    raise Unreachable(
                        f"{url} does not answer: {error or type(error).__name__}. "
                        "Check the address, the port and the certificate."
                    ) from error
                yield Finding(
                    _name(check), ok=False, seen=f"The connection broke: {error!r}", remedy=_LOGS
                )


def _name(check: Callable[[httpx.Client], Finding]) -> str:
    return check.__name__.strip("_").replace("_", " ")


def _code(answer: httpx.Response) -> str | None:
    """The problem's code, or None where it was not Teller that answered."""
    try:
        code = answer.json().get("code")
    except (ValueError, AttributeError):
        return None
    return code if code in CODES else None


def _who(answer: httpx.Response) -> str:
    """What answered, for a finding."""
    server = answer.headers.get("server")
    by = f" by {server}" if server else ""
    return f"{answer.status_code}{by}, content-type {answer.headers.get('content-type', 'none')}"


# -- the checks -----------------------------------------------------------------------------


def _the_service_answers(client: httpx.Client) -> Finding:
    name = _name(_the_service_answers)
    answer = client.post("deposit", content=b"")
    if answer.is_redirect:
        where = answer.headers.get("location", "nowhere")
        return Finding(
            name,
            ok=False,
            seen=f"POST is redirected to {where}; many clients follow with GET, without the body.",
            remedy={"every client": f"use {urljoin(str(client.base_url), where)} from the start"},
        )
    code = _code(answer)
    if code is None:
        return Finding(
            name, ok=False, seen=f"Not Teller: POST /deposit is {_who(answer)}.", remedy=_ROUTE
        )
    return Finding(name, ok=True, seen=f"POST /deposit is answered by Teller: {code}.")


def _user_header(client: httpx.Client, name: str, header: str) -> Finding:
    answer = client.post("deposit", content=_REFUSED_LAST, headers={**_JSON, header: USER})
    code = _code(answer)
    if code == "user-missing":
        return Finding(name, ok=False, seen=f"The header {header} is dropped.", remedy=_UNDERSCORE)
    if code is None:
        seen = f"A request with the header {header} is rejected: {_who(answer)}."
        return Finding(name, ok=False, seen=seen, remedy=_UNDERSCORE)
    return Finding(name, ok=True, seen=f"The header {header} arrives.")


def _header_user_id(client: httpx.Client) -> Finding:
    return _user_header(client, _name(_header_user_id), "user_id")


def _header_x_user_id(client: httpx.Client) -> Finding:
    return _user_header(client, _name(_header_x_user_id), "X-User-Id")


def _who_sets_the_user(client: httpx.Client) -> Finding:
    name = _name(_who_sets_the_user)
    answer = client.post(
        "deposit", content=_REFUSED_LAST, headers={**_JSON, "X-User-Id": "not one user"}
    )
    if _code(answer) == "user-invalid":
        return Finding(
            name,
            ok=True,
            seen="The client's own user header reaches Teller. Right from inside; if this address "
            "is the clients', anybody can be anybody: let the proxy set it from the token.",
        )
    return Finding(name, ok=True, seen="The client's own user header does not reach Teller.")


def _header_idempotency_key(client: httpx.Client) -> Finding:
    name = _name(_header_idempotency_key)
    for key in (KEY, f'"{KEY}"'):
        answer = client.post(
            "deposit",
            content=_REFUSED_LAST,
            headers={**_JSON, "X-User-Id": USER, "Idempotency-Key": key},
        )
        if _code(answer) != "amount-not-positive":
            seen = f"Idempotency-Key: {key} does not arrive: {_code(answer) or _who(answer)}."
            return Finding(name, ok=False, seen=seen, remedy=_KEY)
    return Finding(name, ok=True, seen="Idempotency-Key arrives, bare and quoted.")


def _headers_of_the_answer(client: httpx.Client) -> Finding:
    name = _name(_headers_of_the_answer)
    answer = client.post(
        "deposit",
        content=_REFUSED_LAST,
        headers={
            **_JSON,
            "X-User-Id": USER,
            "Idempotency-Key": KEY,
            "X-Request-Id": REQUEST_ID,
        },
    )
    lost = [
        header
        for header, value in (
            ("Idempotent-Replayed", "false"),
            ("X-Request-Id", REQUEST_ID),
            ("Content-Type", "application/problem+json"),
        )
        if answer.headers.get(header) != value
    ]
    if lost:
        return Finding(
            name,
            ok=False,
            seen=f"Lost or changed on the way back: {', '.join(lost)}.",
            remedy=_BACK,
        )
    return Finding(
        name, ok=True, seen="Idempotent-Replayed, X-Request-Id and the problem come back."
    )


def _bodies(client: httpx.Client) -> Finding:
    name = _name(_bodies)
    headers = {**_JSON, "X-User-Id": USER, "Idempotency-Key": KEY}
    largest = _REFUSED_LAST.ljust(BODY_BYTES)
    whole = client.post("deposit", content=largest, headers=headers)
    if _code(whole) != "amount-not-positive":
        seen = f"A body of {BODY_BYTES} bytes does not arrive whole: {_code(whole) or _who(whole)}."
        return Finding(name, ok=False, seen=seen, remedy=_BODY)
    chunked = client.post("deposit", content=iter([largest[:100], largest[100:]]), headers=headers)
    if _code(chunked) != "amount-not-positive":
        seen = f"A chunked body does not arrive whole: {_code(chunked) or _who(chunked)}."
        return Finding(name, ok=False, seen=seen, remedy=_BODY)
    return Finding(name, ok=True, seen=f"Bodies of {BODY_BYTES} bytes arrive whole, chunked too.")


def _methods(client: httpx.Client) -> Finding:
    name = _name(_methods)
    answer = client.delete("operation", headers={"X-User-Id": USER})
    if _code(answer) != "key-missing":
        seen = f"DELETE /operation does not arrive: {_code(answer) or _who(answer)}."
        return Finding(name, ok=False, seen=seen, remedy=_METHOD)
    return Finding(name, ok=True, seen="GET, POST and DELETE arrive.")


def _clock(client: httpx.Client) -> Finding:
    name = _name(_clock)
    before = time.time()
    answer = client.get("livez")
    after = time.time()
    try:
        there = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return Finding(name, ok=False, seen="No Date comes back.", remedy=_BACK)
    # Date has whole seconds, so the true time lies within the second after it.
    apart = max(there - after, before - there - 1, 0.0)
    if apart > CLOCK_APART_MAX_S:
        seen = f"The clocks here and there are {apart:.0f} s apart."
        return Finding(name, ok=False, seen=seen, remedy=_CLOCK)
    return Finding(name, ok=True, seen="The clocks agree.")


def _documentation(client: httpx.Client) -> Finding:
    name = _name(_documentation)
    page = client.get("docs")
    if page.status_code != httpx.codes.OK:
        seen = f"/docs is {_who(page)}."
        return Finding(name, ok=False, seen=seen, remedy=_ROUTE)
    for path in [*_assets(page.text), "openapi.json", "problems/key-reused"]:
        answer = client.get(path)
        if answer.status_code != httpx.codes.OK or not answer.content:
            seen = f"/docs needs {path}, which is {_who(answer)}."
            return Finding(name, ok=False, seen=seen, remedy=_ROUTE)
    return Finding(name, ok=True, seen="/docs, its files, /openapi.json and /problems work.")


def _assets(page: str) -> list[str]:
    return [path for path in _ASSET.findall(page) if not path.startswith(("data:", "#"))]


_CHECKS: Final = (
    _the_service_answers,
    _header_user_id,
    _header_x_user_id,
    _who_sets_the_user,
    _header_idempotency_key,
    _headers_of_the_answer,
    _bodies,
    _methods,
    _clock,
    _documentation,
)

# -- what mends it --------------------------------------------------------------------------

_UNDERSCORE: Final = {
    "nginx": "underscores_in_headers on;",
    "ingress-nginx": 'ConfigMap: enable-underscores-in-headers: "true"',
    "Envoy": "common_http_protocol_options: {headers_with_underscores_action: ALLOW}",
    "Istio": "a gateway profile other than EDGE, or write X-User-Id: "
    "outputClaimToHeaders: [{header: x-user-id, claim: sub}]",
    "Traefik": "headers.customRequestHeaders must not blank it; forwardAuth: "
    "authResponseHeaders: [X-User-Id]",
    "any of them": "send X-User-Id instead of user_id",
}
_KEY: Final = {
    "nginx": "proxy_pass_request_headers on; and no proxy_set_header Idempotency-Key",
    "ingress-nginx": "no proxy-set-headers entry for Idempotency-Key",
    "Envoy": "no request_headers_to_remove: [idempotency-key]",
    "Istio": "no headers.request.remove: [idempotency-key] in the VirtualService",
    "Traefik": 'no headers.customRequestHeaders: {Idempotency-Key: ""}',
}
_BACK: Final = {
    "nginx": "proxy_intercept_errors off; and no proxy_hide_header",
    "ingress-nginx": "no custom-http-errors, no hide-headers",
    "Envoy": "no response_headers_to_remove, no local_reply_config for 4xx",
    "Istio": "no headers.response.remove in the VirtualService",
    "Traefik": "no errors middleware for 400-499, no customResponseHeaders that blank them",
}
_BODY: Final = {
    "nginx": "client_max_body_size 32k; or more",
    "ingress-nginx": "nginx.ingress.kubernetes.io/proxy-body-size: 32k",
    "Envoy": "envoy.filters.http.buffer: max_request_bytes: 32768",
    "Istio": "the same buffer filter, by an EnvoyFilter",
    "Traefik": "buffering: {maxRequestBodyBytes: 32768}",
}
_METHOD: Final = {
    "nginx": "limit_except GET POST DELETE { deny all; }",
    "ingress-nginx": "nginx.ingress.kubernetes.io/cors-allow-methods: GET, POST, DELETE",
    "Envoy": "no route match on :method without DELETE",
    "Istio": 'AuthorizationPolicy: methods: ["GET", "POST", "DELETE"]',
    "Traefik": "no Method() in the rule without DELETE",
}
_ROUTE: Final = {
    "nginx": "location / { proxy_pass http://teller:8000; }",
    "ingress-nginx": "path: / with pathType: Prefix, service teller",
    "Envoy": 'match: {prefix: "/"}, route: {cluster: teller}',
    "Istio": "VirtualService: a route without match, to the Service teller",
    "Traefik": "rule: PathPrefix(`/`), service teller",
}
_CLOCK: Final = {"either machine": "chronyc tracking, or timedatectl set-ntp true"}
_LOGS: Final = {"the proxy": "its log of this moment says why it closed the connection"}
