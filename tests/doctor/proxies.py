"""Real proxies before a running service: nginx and Envoy, configured as a test wants them."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import yaml

from tests.parts import part
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_TIMEOUT_S = 30

NGINX = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    {options}
    location / {{ proxy_pass {upstream}; }}
  }}
}}
"""


@contextmanager
def _running(command: list[str], port: int, folder: Path) -> Iterator[str]:
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        end_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                said = (folder / "output").read_text()
                assert process.poll() is None, said
                assert time.monotonic() < end_s, said
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def nginx(folder: Path, upstream: str, options: str = "") -> Iterator[str]:
    """An nginx before the service; ``options`` stand in its server block."""
    program, port = part("nginx", "apt-get install nginx-light"), free_port()
    config = folder / "nginx.conf"
    # Started by root its workers would be somebody who may not write into the test's folder.
    user = "" if os.geteuid() else "user root;"
    config.write_text(
        NGINX.format(user=user, folder=folder, port=port, upstream=upstream, options=options)
    )
    with _running([program, "-c", str(config), "-p", str(folder)], port, folder) as url:
        yield url


@contextmanager
def envoy(folder: Path, upstream: str, underscores: str) -> Iterator[str]:
    """An Envoy before the service, with a way of its own with underscores in header names."""
    program, port = part("envoy", "uv sync"), free_port()
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "doctor",
        "common_http_protocol_options": {"headers_with_underscores_action": underscores},
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "teller"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    host, _, upstream_port = upstream.removeprefix("http://").partition(":")
    endpoint = {"address": _address(host, int(upstream_port))}
    config = {
        "static_resources": {
            "listeners": [
                {
                    "address": _address("127.0.0.1", port),
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "teller",
                    "load_assignment": {
                        "cluster_name": "teller",
                        "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
                    },
                }
            ],
        }
    }
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [program, "-c", str(path), "--use-dynamic-base-id", "--log-level", "error"]
    with _running([*command, "--concurrency", "1"], port, folder) as url:
        yield url


def _address(host: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": port}}
