{{/*
A pod that tries the service as a client would: files/smoke.py.
Give (list . url run authorization): the run's name goes into its keys.
*/}}
{{- define "teller.smokePod" -}}
{{- $context := index . 0 -}}
metadata:
  labels:
    {{- include "teller.selectorLabels" (list $context "smoke") | nindent 4 }}
    sidecar.istio.io/inject: {{ $context.Values.istio.enabled | quote }}
  annotations:
    {{- include "teller.unprobed" "it runs to its end" | nindent 4 }}
spec:
  {{- include "teller.smokePodSpec" . | nindent 2 }}
{{- end }}

{{- define "teller.smokePodSpec" -}}
{{- $context := index . 0 -}}
restartPolicy: Never
serviceAccountName: {{ include "teller.serviceAccountName" $context }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "teller.podSecurityContext" $context | nindent 2 }}
{{- include "teller.placement" $context }}
containers:
  - name: smoke
    image: {{ include "teller.image" $context }}
    imagePullPolicy: {{ $context.Values.image.pullPolicy }}
    command: [python, /smoke/smoke.py]
    args: [{{ index . 1 | quote }}{{ if index . 3 }}, --authorization{{ end }}]
    env:
      - name: SMOKE_RUN
        value: {{ index . 2 | quote }}
      {{- if $context.Values.auth.smoke.existingSecret }}
      - name: SMOKE_TOKEN
        valueFrom:
          secretKeyRef:
            name: {{ $context.Values.auth.smoke.existingSecret }}
            key: {{ $context.Values.auth.smoke.secretKey }}
      {{- else if eq $context.Values.auth.mode "header" }}
      - name: SMOKE_USER
        value: {{ $context.Values.auth.smoke.user }}
      {{- end }}
    securityContext:
      {{- include "teller.containerSecurityContext" $context | nindent 6 }}
    resources:
      requests: {cpu: 50m, memory: 64Mi}
      limits: {cpu: 500m, memory: 128Mi}
    volumeMounts:
      - name: smoke
        mountPath: /smoke
        readOnly: true
volumes:
  - name: smoke
    configMap:
      name: {{ include "teller.fullname" $context }}-smoke
{{- end }}

{{/* Why a pod has no probes, for checkov. */}}
{{- define "teller.unprobed" -}}
checkov.io/skip1: CKV_K8S_8={{ . }}
checkov.io/skip2: CKV_K8S_9={{ . }}
{{- end }}
