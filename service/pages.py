"""The pages people open: /docs, and one for each problem code. They need no internet."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Final

import fastapi_swagger
from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from service.errors import CODES

if TYPE_CHECKING:
    from service.errors import Code

router = APIRouter(include_in_schema=False)

# Swagger UI's own files, as that package carries them.
assets: Final = StaticFiles(directory=str(resources.files(fastapi_swagger) / "resources"))

_RETRY: Final = {
    "same_key": "Retry with the same key.",
    "new_key": "Do not retry. A new operation needs a new key.",
    "fix_request": "Correct the request, then send it again.",
    "never": "Do not retry.",
}


@router.get("/docs", response_model=None)
async def docs() -> Response:
    """Swagger UI over /openapi.json."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Teller: API",
        swagger_js_url="assets/swagger-ui-bundle.js",
        swagger_css_url="assets/swagger-ui.css",
        swagger_favicon_url="assets/favicon-32x32.png",
    )


@router.get("/problems", response_model=None)
async def problems() -> Response:
    """Every code in one table."""
    rows = "".join(
        f'<tr><td>{code.status}</td><td><a href="/problems/{code.name}">{code.name}</a></td>'
        f"<td>{escape(code.title)}</td></tr>"
        for code in sorted(CODES.values(), key=lambda code: (code.status, code.name))
    )
    return _page(
        "Problems",
        "<h1>Problems</h1><p>Every answer of Teller that is not a success carries one of these "
        f"codes.</p><table><tr><th>Status</th><th>Code</th><th>Meaning</th></tr>{rows}</table>",
    )


@router.get("/problems/{name}", response_model=None)
async def problem(name: str) -> Response:
    """One code: what happened to the money, and what to do."""
    code = CODES.get(name)
    if code is None:
        raise HTTPException(404)
    return _page(code.title, _problem(code))


def _problem(code: Code) -> str:
    outcome = "that of the operation under the key" if code.outcome == "stored" else code.outcome
    return (
        f'<p><a href="/problems">All problems</a></p><h1>{escape(code.title)}</h1>'
        f"<p><code>{code.status}</code> <code>{code.name}</code></p>"
        f"<h2>What happened to the money</h2><p>{escape(code.money)}</p>"
        f"<h2>What to do</h2><p><strong>{_RETRY[code.retry]}</strong> {escape(code.remedy)}</p>"
        f"<h2>In the answer</h2><p><code>outcome</code>: {escape(outcome)}<br>"
        f"<code>retry</code>: {code.retry}</p>"
    )


def _page(title: str, body: str) -> HTMLResponse:
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} - Teller</title><style>{_STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>",
        headers={
            "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
            "cache-control": "max-age=3600",
        },
    )


_STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{font:1.05rem/1.6 system-ui,sans-serif;margin:0;padding:1.5rem}"
    "main{max-width:44rem;margin:auto}h1{line-height:1.2}h2{font-size:1.1rem;margin-top:2rem}"
    "code{background:#8882;padding:.1em .35em;border-radius:.25em;overflow-wrap:anywhere}"
    "table{border-collapse:collapse;width:100%}"
    "td,th{padding:.4rem .6rem .4rem 0;text-align:left;vertical-align:top;"
    "border-bottom:1px solid #8884}"
)
