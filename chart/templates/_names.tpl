{{/* Names and labels. */}}

{{- define "teller.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Short enough for the longest suffix, "-litestream-config", in 63 characters. */}}
{{- define "teller.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 44 | trimSuffix "-" }}
{{- else if contains (include "teller.name" .) .Release.Name }}
{{- .Release.Name | trunc 44 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "teller.name" .) | trunc 44 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What a selector may hold: it cannot change. Give (list . "component"). */}}
{{- define "teller.selectorLabels" -}}
{{- $context := index . 0 -}}
app.kubernetes.io/name: {{ include "teller.name" $context }}
app.kubernetes.io/instance: {{ $context.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* The labels of an object's metadata; never inside the VirtualService's spec. */}}
{{- define "teller.labels" -}}
{{- $context := index . 0 -}}
{{ include "teller.selectorLabels" . }}
app.kubernetes.io/version: {{ $context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $context.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $context.Chart.Name $context.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "teller.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "teller.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* An image by digest, else by tag. Give (dict "image" … "tag" the tag to fall back to). */}}
{{- define "teller.imageReference" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .tag .image.tag }}
{{- end }}
{{- end }}

{{- define "teller.image" -}}
{{- include "teller.imageReference" (dict "image" .Values.image "tag" .Chart.AppVersion) }}
{{- end }}

{{/* Seconds of a duration such as 90s, 5m or 1h. */}}
{{- define "teller.seconds" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- if hasSuffix "h" . }}{{ mul $number 3600 }}
{{- else if hasSuffix "m" . }}{{ mul $number 60 }}
{{- else }}{{ $number }}
{{- end }}
{{- end }}

{{/* "true" where there are two hosts to weigh, stable and canary. */}}
{{- define "teller.sqlite" -}}
{{- if eq .Values.database.kind "sqlite" }}true{{ end }}
{{- end }}

{{- define "teller.litestream" -}}
{{- if and (include "teller.sqlite" .) .Values.database.sqlite.litestream.enabled }}true{{ end }}
{{- end }}

{{- define "teller.claimName" -}}
{{- default (printf "%s-ledger" (include "teller.fullname" .)) .Values.database.sqlite.existingClaim }}
{{- end }}

{{/* "true" where the smoke test can say who it is. */}}
{{- define "teller.smoke" -}}
{{- if or .Values.auth.smoke.existingSecret (eq .Values.auth.mode "header") }}true{{ end }}
{{- end }}
