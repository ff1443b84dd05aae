{{/* The pod of the service, the same under a Rollout and under a Deployment. */}}

{{- define "teller.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "teller.containerSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Where the ledger is, and the settings that every teller command needs to agree on. */}}
{{- define "teller.databaseEnv" -}}
- name: TELLER_DATABASE_URL
{{- if include "teller.sqlite" . }}
  value: sqlite+aiosqlite:////data/teller.db
{{- else }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.postgresql.existingSecret }}
      key: {{ .Values.database.postgresql.secretKey }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: TELLER_{{ upper $name }}
  value: {{ toString $value | quote }}
{{- end }}
{{- end }}

{{/*
The settings stand in the pod template, not in a ConfigMap: stable must keep its own while the
canary tries new ones, even when a stable pod restarts.
*/}}
{{- define "teller.env" -}}
{{ include "teller.databaseEnv" . }}
- name: TELLER_HOST
  value: 0.0.0.0
- name: TELLER_PORT
  value: "8000"
- name: TELLER_METRICS_PORT
  value: {{ .Values.observability.metricsPort | quote }}
- name: TELLER_DRAIN_TIMEOUT_S
  value: {{ .Values.shutdown.drainTimeoutSeconds | quote }}
- name: TELLER_AUTO_MIGRATE
  value: "false"
{{- with .Values.observability.otlp }}
{{- if .endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .samplingRatio | quote }}
- name: OTEL_SERVICE_NAME
  value: {{ include "teller.fullname" $ }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name={{ $.Release.Namespace }},service.version={{ default $.Chart.AppVersion $.Values.image.tag }}
{{- end }}
{{- end }}
{{- end }}

{{/* A container that runs one teller command to its end. Give (list . name args). */}}
{{- define "teller.command" -}}
{{- $context := index . 0 -}}
name: {{ index . 1 }}
image: {{ include "teller.image" $context }}
imagePullPolicy: {{ $context.Values.image.pullPolicy }}
args: {{ index . 2 | toJson }}
env:
  {{- include "teller.databaseEnv" $context | nindent 2 }}
securityContext:
  {{- include "teller.containerSecurityContext" $context | nindent 2 }}
resources:
  {{- toYaml $context.Values.resources | nindent 2 }}
volumeMounts:
  {{- include "teller.volumeMounts" $context | nindent 2 }}
{{- end }}

{{- define "teller.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if include "teller.sqlite" . }}
- name: ledger
  mountPath: /data
{{- end }}
{{- end }}

{{- define "teller.initContainers" -}}
{{- if include "teller.litestream" . }}
- name: restore
  image: {{ include "teller.imageReference" (dict "image" .Values.database.sqlite.litestream.image "tag" "") }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  # Only an empty volume is filled, and only if there is something to fill it with.
  args: [restore, -if-db-not-exists, -if-replica-exists, -config, /etc/litestream/litestream.yml, /data/teller.db]
  {{- with .Values.database.sqlite.litestream.existingSecret }}
  envFrom:
    - secretRef:
        name: {{ . }}
  {{- end }}
  securityContext:
    {{- include "teller.containerSecurityContext" . | nindent 4 }}
  resources:
    {{- toYaml .Values.database.sqlite.litestream.resources | nindent 4 }}
  volumeMounts:
    {{- include "teller.volumeMounts" . | nindent 4 }}
    - name: litestream-config
      mountPath: /etc/litestream
      readOnly: true
{{- end }}
{{- if and (include "teller.sqlite" .) .Values.migrations.enabled }}
- {{- include "teller.command" (list . "migrate" (list "migrate")) | nindent 2 }}
{{- if include "teller.smoke" . }}
- {{- include "teller.command" (list . "smoke-user" (list "users" "add" .Values.auth.smoke.user)) | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "teller.container" -}}
name: teller
image: {{ include "teller.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve]
env:
  {{- include "teller.env" . | nindent 2 }}
ports:
  - name: http
    containerPort: 8000
  - name: metrics
    containerPort: {{ .Values.observability.metricsPort }}
startupProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 3
  timeoutSeconds: 3
  failureThreshold: 2
lifecycle:
  preStop:
    sleep:
      seconds: {{ .Values.shutdown.preStopSeconds }}
securityContext:
  {{- include "teller.containerSecurityContext" . | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  {{- include "teller.volumeMounts" . | nindent 2 }}
{{- end }}

{{- define "teller.podTemplate" -}}
metadata:
  annotations:
    kubectl.kubernetes.io/default-container: teller
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "teller.selectorLabels" (list . "server") | nindent 4 }}
    app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
    sidecar.istio.io/inject: {{ .Values.istio.enabled | quote }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "teller.serviceAccountName" . }}
  automountServiceAccountToken: false
  # Kubernetes would inject TELLER_PORT=tcp://… for a Service named teller.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.shutdown.gracePeriodSeconds }}
  securityContext:
    {{- include "teller.podSecurityContext" . | nindent 4 }}
  {{- include "teller.placement" . | nindent 2 }}
  affinity:
  {{- if include "teller.sqlite" . }}
    # ReadWriteOnce is per node: the canary runs where stable has the volume.
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "teller.selectorLabels" (list . "server") | nindent 14 }}
  {{- else }}
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "teller.selectorLabels" (list . "server") | nindent 16 }}
  {{- end }}
  {{- with include "teller.initContainers" . }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    - {{- include "teller.container" . | nindent 6 }}
  volumes:
    {{- include "teller.volumes" . | nindent 4 }}
{{- end }}

{{- define "teller.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- if include "teller.sqlite" . }}
- name: ledger
  persistentVolumeClaim:
    claimName: {{ include "teller.claimName" . }}
{{- end }}
{{- if include "teller.litestream" . }}
- name: litestream-config
  configMap:
    name: {{ include "teller.fullname" . }}-litestream-config
{{- end }}
{{- end }}

{{/* Where any pod of the release may run. */}}
{{- define "teller.placement" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
