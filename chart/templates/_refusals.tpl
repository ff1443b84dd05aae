{{/*
What cannot work, across values, each with its reason and a remedy. values.schema.json refuses
unknown names and wrong types; a schema cannot give reasons, so these are here.
*/}}
{{- define "teller.refusals" -}}
{{- include "teller.refusals.sqlite" . }}
{{- include "teller.refusals.postgresql" . }}
{{- include "teller.refusals.identity" . }}
{{- include "teller.refusals.release" . }}
{{- include "teller.refusals.settings" . }}
{{- end }}

{{- define "teller.refusals.sqlite" -}}
{{- if include "teller.sqlite" . }}
{{- if gt (int .Values.replicaCount) 1 }}
{{- fail "replicaCount must be 1 with database.kind=sqlite: one file has one node, and the canary is already its second process. For more pods use database.kind=postgresql." }}
{{- end }}
{{- if .Values.hpa.enabled }}
{{- fail "hpa.enabled must be false with database.kind=sqlite: more pods on one file write no faster, and a second node cannot mount the volume. For scaling use database.kind=postgresql." }}
{{- end }}
{{- if .Values.pdb.enabled }}
{{- fail "pdb.enabled must be false with database.kind=sqlite: the one pod may not be evicted then, and a node could never be drained. Drain it in a quiet moment; clients retry with the same key." }}
{{- end }}
{{- if .Values.runtimeClassName }}
{{- fail "runtimeClassName must be empty with database.kind=sqlite: sandboxes (gVisor, Kata) do not share the WAL's memory and locks between the pods of stable and canary. Use database.kind=postgresql with it." }}
{{- end }}
{{- $mode := .Values.database.sqlite.accessMode }}
{{- if eq $mode "ReadWriteMany" }}
{{- fail "database.sqlite.accessMode must be ReadWriteOnce: ReadWriteMany volumes are network file systems, on which SQLite's locks and shared memory do not hold, and the ledger would be damaged." }}
{{- else if eq $mode "ReadWriteOncePod" }}
{{- fail "database.sqlite.accessMode must be ReadWriteOnce: with ReadWriteOncePod the canary could never mount the volume beside stable and would stay Pending." }}
{{- else if ne $mode "ReadWriteOnce" }}
{{- fail "database.sqlite.accessMode must be ReadWriteOnce: Teller writes to the ledger." }}
{{- end }}
{{- $litestream := .Values.database.sqlite.litestream }}
{{- if and $litestream.enabled (not $litestream.replica) }}
{{- fail "database.sqlite.litestream.replica is empty: say where to replicate to, for example {type: s3, bucket: ledger, path: teller}." }}
{{- end }}
{{- if and $litestream.enabled (not $litestream.image.digest) (not (semverCompare ">=0.5.17" $litestream.image.tag)) }}
{{- fail (printf "database.sqlite.litestream.image.tag %s is too old: Litestream before 0.5.17 bundles an SQLite with the WAL-reset bug and can lose commits beside the service. Use 0.5.17 or newer." $litestream.image.tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "teller.refusals.postgresql" -}}
{{- if eq .Values.database.kind "postgresql" }}
{{- if not .Values.database.postgresql.existingSecret }}
{{- fail "database.postgresql.existingSecret is empty: name the Secret that holds the database's URL, for CloudNativePG <cluster>-app." }}
{{- end }}
{{- if .Values.database.sqlite.litestream.enabled }}
{{- fail "database.sqlite.litestream.enabled must be false with database.kind=postgresql: Litestream replicates SQLite files. Back up PostgreSQL by its own means (examples/postgresql-cluster.yaml)." }}
{{- end }}
{{- if and .Values.pdb.enabled (not .Values.hpa.enabled) (lt (int .Values.replicaCount) 2) }}
{{- fail "pdb.enabled needs replicaCount 2 or more: with one pod, which may not be missed, a node could never be drained." }}
{{- end }}
{{- if and .Values.hpa.enabled (gt (int .Values.hpa.minReplicas) (int .Values.hpa.maxReplicas)) }}
{{- fail "hpa.minReplicas is above hpa.maxReplicas." }}
{{- end }}
{{- end }}
{{- end }}

{{- define "teller.refusals.identity" -}}
{{- if eq .Values.auth.mode "header" }}
{{- if not .Values.auth.insecure }}
{{- fail "auth.mode=header believes whatever user_id a client sends, so that anybody can withdraw as anybody. Use auth.mode=jwt with auth.jwt.issuer; or, if something that you have built sets the header, say auth.insecure=true." }}
{{- end }}
{{- else }}
{{- if not .Values.istio.enabled }}
{{- fail "auth.mode=jwt needs istio.enabled: Istio verifies the token and makes the user from it; Teller itself believes the header. Enable Istio; or, behind a proxy of your own which sets user_id, say auth.mode=header and auth.insecure=true." }}
{{- end }}
{{- if not .Values.auth.jwt.issuer }}
{{- fail "auth.jwt.issuer is empty: name the issuer of your users' tokens. To try the chart without one, say auth.mode=header and auth.insecure=true." }}
{{- end }}
{{- if eq (empty .Values.auth.jwt.jwksUri) (empty .Values.auth.jwt.jwks) }}
{{- fail "Set exactly one of auth.jwt.jwksUri and auth.jwt.jwks: the issuer's keys, by their address or themselves." }}
{{- end }}
{{- end }}
{{- if .Values.istio.enabled }}
{{- if not .Values.istio.hosts }}
{{- fail "istio.hosts is empty: name at least one public host, for example [teller.example.com]." }}
{{- end }}
{{- $gateway := .Values.istio.gateway }}
{{- if and (not $gateway.create) (not $gateway.existing) }}
{{- fail "istio.gateway.existing is empty: name a Gateway as namespace/name, or let the chart make one with istio.gateway.create=true." }}
{{- end }}
{{- if and $gateway.create (not $gateway.credentialName) (not .Values.auth.insecure) }}
{{- fail "istio.gateway.credentialName is empty: over plain HTTP anybody on the way reads the tokens. Name the Secret with the certificate; or, if TLS ends before the gateway, say auth.insecure=true." }}
{{- end }}
{{- end }}
{{- end }}

{{- define "teller.refusals.release" -}}
{{- $analysis := .Values.rollout.analysis }}
{{- if .Values.rollout.enabled }}
{{- if not .Values.istio.enabled }}
{{- fail "rollout.enabled needs istio.enabled: without it a weight is a ratio of pods, and one pod beside one pod is 50 percent, not 5. Enable Istio, or say rollout.enabled=false for a plain Deployment." }}
{{- end }}
{{- $last := 0 }}
{{- range .Values.rollout.weights }}
{{- if le (int .) $last }}
{{- fail "rollout.weights must rise, each from 1 to 99, for example [5, 25, 50]; 100 comes after the last." }}
{{- end }}
{{- $last = int . }}
{{- end }}
{{- if not .Values.observability.podMonitor.enabled }}
{{- fail "observability.podMonitor.enabled must be true with rollout.enabled: the analysis tells stable from canary by the label that the PodMonitor carries over, and without data the ledger's audit aborts every release." }}
{{- end }}
{{- $measured := add (include "teller.seconds" $analysis.window) (include "teller.seconds" $analysis.interval) }}
{{- if lt (include "teller.seconds" .Values.rollout.stepPause | int64) (int64 $measured) }}
{{- fail (printf "rollout.stepPause=%s is shorter than rollout.analysis.window and interval together (%d s): the canary would move on before its own traffic was measured." .Values.rollout.stepPause $measured) }}
{{- end }}
{{- end }}
{{- $stop := add .Values.shutdown.preStopSeconds .Values.shutdown.drainTimeoutSeconds 3 }}
{{- if le (int64 .Values.shutdown.gracePeriodSeconds) (int64 $stop) }}
{{- fail (printf "shutdown.gracePeriodSeconds=%d must exceed preStopSeconds, drainTimeoutSeconds and 3 s for the disk together (%d s): Kubernetes would kill the pod while it answers what it has accepted." (int64 .Values.shutdown.gracePeriodSeconds) $stop) }}
{{- end }}
{{- end }}

{{- define "teller.refusals.settings" -}}
{{- $owned := dict
  "database_url" "database"
  "host" "nothing: a pod listens on all its addresses"
  "port" "service.port"
  "metrics_port" "observability.metricsPort"
  "drain_timeout_s" "shutdown.drainTimeoutSeconds"
  "auto_migrate" "migrations.enabled" }}
{{- range $name, $value := .Values.settings }}
{{- with get $owned $name }}
{{- fail (printf "settings.%s is the chart's own: use %s." $name .) }}
{{- end }}
{{- end }}
{{- if .Values.istio.enabled }}
{{- $body := default 10000 .Values.settings.body_timeout_ms | int64 }}
{{- $answer := default 15000 .Values.settings.answer_timeout_ms | int64 }}
{{- $limit := add $body $answer }}
{{- if le (mul 1000 (include "teller.seconds" .Values.istio.timeout | int64)) $limit }}
{{- fail (printf "istio.timeout=%s must exceed Teller's own limits, body_timeout_ms and answer_timeout_ms together (%d ms): the mesh would answer before Teller can say what happened to the money." .Values.istio.timeout $limit) }}
{{- end }}
{{- end }}
{{- end }}
