{{/* What a release in flight asks of an upgrade: the guard, and the live weights. */}}

{{/*
The weights to render, as JSON: those of the live VirtualService, or 100 to 0. Between releases both
are the same, so that an upgrade sends no change of the routes.
*/}}
{{- define "teller.weights" -}}
{{- $weights := dict "stable" 100 "canary" 0 }}
{{- $name := include "teller.fullname" . }}
{{- $live := lookup "networking.istio.io/v1" "VirtualService" .Release.Namespace $name }}
{{- range (dig "spec" "http" (list) ($live | default dict)) }}
{{- if eq (.name | default "") "keyed-post" }}
{{- range .route }}
{{- $host := dig "destination" "host" "" . }}
{{- if eq $host (printf "%s-stable" $name) }}
{{- $_ := set $weights "stable" (.weight | default 0 | int) }}
{{- else if eq $host (printf "%s-canary" $name) }}
{{- $_ := set $weights "canary" (.weight | default 0 | int) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $weights | toJson }}
{{- end }}

{{/* Refuse an upgrade while a canary is in flight: it would change what is being judged. */}}
{{- define "teller.guard" -}}
{{- if and .Values.rollout.enabled (not .Values.rollout.allowUpgradeInCanary) }}
{{- $name := include "teller.fullname" . }}
{{- $rollout := lookup "argoproj.io/v1alpha1" "Rollout" .Release.Namespace $name | default dict }}
{{- $status := get $rollout "status" | default dict }}
{{- $weights := include "teller.weights" . | fromJson }}
{{- $flying := false }}
{{- if and $status.stableRS (ne $status.stableRS $status.currentPodHash) (not $status.abort) }}
{{- $flying = true }}
{{- end }}
{{- $seen := $status.observedGeneration | default "" | toString }}
{{- if and $seen (ne $seen (dig "metadata" "generation" 0 $rollout | int64 | toString)) }}
{{- $flying = true }}
{{- end }}
{{- if ne (int $weights.stable) 100 }}
{{- $flying = true }}
{{- end }}
{{- if $flying }}
{{- fail (printf "A canary of %s is in flight (stable %d %%, canary %d %%): an upgrade now would change what is being judged. Wait for it (kubectl argo rollouts status %s -n %s), promote it or abort it; or upgrade all the same, which keeps the live weights, with --set rollout.allowUpgradeInCanary=true." $name (int $weights.stable) (int $weights.canary) $name .Release.Namespace) }}
{{- end }}
{{- end }}
{{- end }}
