"""The chart's Istio objects as Envoy's configuration: what istiod would make of them.

It stands in for istiod. Each function names the object that it reads and follows Istio's own
translation (release 1.30: retry.go, generator.go and the JWT filter of the security plugin). What
the chart does not use is refused, not guessed. Without it here: mutual TLS between the proxies,
and Istio's own telemetry filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tests.chart.manifests import Manifest

Config = dict[str, Any]

DOMAIN: Final = "svc.cluster.local"
_TYPES: Final = "type.googleapis.com/envoy"
_PREVIOUS_HOSTS: Final = {
    "name": "envoy.retry_host_predicates.previous_hosts",
    "typed_config": {
        "@type": f"{_TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    },
}
# Istio's own policy where a route of a VirtualService says none, or there is no VirtualService.
_DEFAULT_RETRIES: Final = {
    "attempts": 2,
    "retryOn": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
}


def cluster_name(host: str, port: int, namespace: str) -> str:
    return f"outbound|{port}||{qualified(host, namespace)}"


def qualified(host: str, namespace: str) -> str:
    return host if "." in host else f"{host}.{namespace}.{DOMAIN}"


# -- VirtualService ---------------------------------------------------------------------------


def routes(virtual_service: Manifest, *, version: str) -> Config:
    """A VirtualService as a route configuration, for RDS."""
    spec, namespace = virtual_service["spec"], virtual_service["metadata"]["namespace"]
    host = {
        "name": virtual_service["metadata"]["name"],
        "domains": _domains(spec["hosts"]),
        "routes": [_route(http, namespace) for http in spec["http"]],
        "include_request_attempt_count": True,
    }
    return _route_configuration("ingress", [host], version)


def sidecar_routes(
    services: Iterable[Manifest], virtual_service: Manifest, *, version: str
) -> Config:
    """What a client inside the mesh is routed by, for RDS: Services, and the VirtualService.

    The VirtualService stands for the Service of its name; the others have Istio's own defaults.
    """
    metadata = virtual_service["metadata"]
    assert "mesh" in virtual_service["spec"]["gateways"]
    assert qualified(metadata["name"], metadata["namespace"]) in virtual_service["spec"]["hosts"]
    routed = [_route(http, metadata["namespace"]) for http in virtual_service["spec"]["http"]]
    hosts = [_virtual_host(metadata, routed)]
    for service in services:
        (port,) = service["spec"]["ports"]
        to = {"host": service["metadata"]["name"], "port": {"number": port["port"]}}
        default = {"name": "default", "route": [{"destination": to}]}
        only = _route(default, service["metadata"]["namespace"])
        hosts.append(_virtual_host(service["metadata"], [only]))
    return _route_configuration("sidecar", hosts, version)


def _virtual_host(metadata: Manifest, routed: list[Config]) -> Config:
    name = metadata["name"]
    domains = _domains([name, qualified(name, metadata["namespace"])])
    return {"name": name, "domains": domains, "routes": routed}


def _route_configuration(name: str, hosts: list[Config], version: str) -> Config:
    resource = {
        "@type": f"{_TYPES}.config.route.v3.RouteConfiguration",
        "name": name,
        "virtual_hosts": hosts,
        "validate_clusters": False,
    }
    return {"version_info": version, "resources": [resource]}


def _domains(hosts: Iterable[str]) -> list[str]:
    return [domain for host in hosts for domain in (host, f"{host}:*")]


def _route(http: Manifest, namespace: str) -> Config:
    known = {"name", "match", "headers", "timeout", "retries", "route"}
    assert http.keys() <= known, f"not translated: {http.keys() - known}"
    action: Config = {"timeout": http.get("timeout", "0s")}
    policy = _retry_policy(http.get("retries", _DEFAULT_RETRIES))
    if policy is not None:
        action["retry_policy"] = policy
    weighted = [
        {
            "name": cluster_name(
                to["destination"]["host"], to["destination"]["port"]["number"], namespace
            ),
            "weight": to.get("weight", 100),
        }
        for to in http["route"]
        if to.get("weight", 100)
    ]
    if len(weighted) == 1:
        action["cluster"] = weighted[0]["name"]
    else:
        action["weighted_clusters"] = {"clusters": weighted}
    headers = http.get("headers", {})
    assert headers.keys() <= {"request"} and headers.get("request", {}).keys() <= {"remove"}
    return {
        "name": http["name"],
        "match": _match(http.get("match", [])),
        "route": action,
        "request_headers_to_remove": headers.get("request", {}).get("remove", []),
    }


def _match(matches: Sequence[Manifest]) -> Config:
    if not matches:
        return {"prefix": "/"}
    (match,) = matches
    assert match.keys() <= {"method", "headers"}
    headers = [{"name": ":method", "string_match": match["method"]}]
    for name, rule in match.get("headers", {}).items():
        (pattern,) = rule.values()
        assert rule.keys() == {"regex"}
        headers.append({"name": name, "string_match": {"safe_regex": {"regex": pattern}}})
    return {"prefix": "/", "headers": headers}


def _retry_policy(retries: Manifest) -> Config | None:
    assert retries.keys() <= {"attempts", "retryOn"}
    if not retries["attempts"]:
        return None
    return {
        "num_retries": retries["attempts"],
        "retry_on": retries["retryOn"],
        "retry_host_predicate": [_PREVIOUS_HOSTS],
        "host_selection_retry_max_attempts": 5,
    }


# -- DestinationRule --------------------------------------------------------------------------


def cluster(service: Manifest, rules: Iterable[Manifest], endpoints: Path) -> Config:
    """A Service with its DestinationRule as a cluster whose endpoints come from a file."""
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    (port,) = service["spec"]["ports"]
    (rule,) = [it["spec"] for it in rules if it["spec"]["host"] == name]
    pool = rule["trafficPolicy"]["connectionPool"]
    assert rule["trafficPolicy"]["tls"] == {"mode": "ISTIO_MUTUAL"}
    return {
        "name": cluster_name(name, port["port"], namespace),
        "alt_stat_name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": file_source(endpoints)},
        "connect_timeout": pool["tcp"]["connectTimeout"],
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": pool["tcp"]["maxConnections"],
                    "max_pending_requests": pool["http"]["http1MaxPendingRequests"],
                    "max_requests": 2**32 - 1,
                    "max_retries": pool["http"]["maxRetries"],
                }
            ]
        },
    }


def endpoints_of(service: Manifest, addresses: Iterable[str], *, version: str) -> Config:
    """The ready pods of a Service, for EDS."""
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    (port,) = service["spec"]["ports"]
    resource = {
        "@type": f"{_TYPES}.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster_name(name, port["port"], namespace),
        "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address(it, 8000)}} for it in addresses]}
        ],
    }
    return {"version_info": version, "resources": [resource]}


def file_source(path: Path) -> Config:
    """A file that Envoy reads again when another is renamed onto it."""
    watched = {"path": str(path.parent)}
    return {
        "path_config_source": {"path": str(path), "watched_directory": watched},
        "resource_api_version": "V3",
    }


def address(host: str, port: int) -> Config:
    return {"socket_address": {"address": host, "port_value": port}}


# -- RequestAuthentication --------------------------------------------------------------------


def token_filter(authentication: Manifest) -> Config:
    """A RequestAuthentication as the jwt_authn filter: a token, or none; never a bad one."""
    (rule,) = authentication["spec"]["jwtRules"]
    known = {"issuer", "jwks", "audiences", "outputClaimToHeaders"}
    assert rule.keys() <= known, f"not translated: {rule.keys() - known}"
    provider = {
        "issuer": rule["issuer"],
        "audiences": rule.get("audiences", []),
        "local_jwks": {"inline_string": rule["jwks"]},
        "forward": False,
        "payload_in_metadata": "payload",
        "normalize_payload_in_metadata": {"space_delimited_claims": ["permission", "scope"]},
        "claim_to_headers": [
            {"header_name": it["header"], "claim_name": it["claim"]}
            for it in rule["outputClaimToHeaders"]
        ],
    }
    either = {
        "requires_any": {"requirements": [{"provider_name": "origins-0"}, {"allow_missing": {}}]}
    }
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": f"{_TYPES}.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"origins-0": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": either}],
            "bypass_cors_preflight": True,
        },
    }


# -- AuthorizationPolicy ----------------------------------------------------------------------


def authorization_filter(policy: Manifest) -> Config:
    """An AuthorizationPolicy as the RBAC filter."""
    spec = policy["spec"]
    assert spec["action"] == "ALLOW"
    policies = {
        f"rule[{number}]": {
            "permissions": [_permission(to["operation"]) for to in rule["to"]],
            "principals": [_principal(one["source"]) for one in rule.get("from", [{"source": {}}])],
        }
        for number, rule in enumerate(spec["rules"])
    }
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": f"{_TYPES}.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "ALLOW", "policies": policies},
            "shadow_rules_stat_prefix": "istio_dry_run_allow_",
        },
    }


def _permission(operation: Manifest) -> Config:
    assert operation.keys() <= {"ports", "methods", "paths"}
    fields: list[list[Config]] = [
        [{"destination_port": int(it)} for it in operation["ports"]],
        [
            {"header": {"name": ":method", "string_match": {"exact": it}}}
            for it in operation.get("methods", [])
        ],
        [{"url_path": {"path": _matched(it)}} for it in operation.get("paths", [])],
    ]
    return {"and_rules": {"rules": [{"or_rules": {"rules": it}} for it in fields if it]}}


def _principal(source: Manifest) -> Config:
    assert source.keys() <= {"requestPrincipals"}
    if not source:
        return {"any": True}
    either = []
    for value in source["requestPrincipals"]:
        issuer, _, subject = value.rpartition("/")
        assert subject == "*"
        said = (("iss", {"exact": issuer}), ("sub", {"safe_regex": {"regex": ".+"}}))
        both = [
            {
                "metadata": {
                    "filter": "envoy.filters.http.jwt_authn",
                    "path": [{"key": "payload"}, {"key": claim}],
                    "value": {"string_match": matched},
                }
            }
            for claim, matched in said
        ]
        either.append({"and_ids": {"ids": both}})
    return {"or_ids": {"ids": either}}


def _matched(value: str) -> Config:
    return {"prefix": value[:-1]} if value.endswith("*") else {"exact": value}
