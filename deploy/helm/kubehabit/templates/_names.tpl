{{- define "kubehabit.name" -}}
{{- if contains "kubehabit" .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{- else -}}{{ printf "%s-kubehabit" .Release.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "kubehabit.selector" -}}
app.kubernetes.io/name: kubehabit
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kubehabit.labels" -}}
{{ include "kubehabit.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "kubehabit.image" -}}
{{- $image := index . 0 -}}
{{- $chart := index . 1 -}}
{{- if $image.digest -}}{{ $image.repository }}@{{ $image.digest }}{{- else -}}{{ $image.repository }}:{{ $image.tag | default $chart.AppVersion }}{{- end -}}
{{- end -}}

{{/* serve.yaml: what was given, and the paths of what the chart mounts. */}}
{{- define "kubehabit.settings" -}}
{{- $own := dict -}}
{{- with .Values.access.tokensSecret -}}{{- $_ := set $own "access" (dict "tokens" "/etc/kubehabit/tokens/tokens.json") -}}{{- end -}}
{{- $tls := dict -}}
{{- with .Values.tls.secret -}}{{- $_ := set $tls "certificate" "/etc/kubehabit/tls/tls.crt" -}}{{- $_ := set $tls "key" "/etc/kubehabit/tls/tls.key" -}}{{- end -}}
{{- with .Values.tls.clientCaSecret -}}{{- $_ := set $tls "client_ca" "/etc/kubehabit/client-ca/ca.crt" -}}{{- end -}}
{{- if $tls -}}{{- $_ := set $own "tls" $tls -}}{{- end -}}
{{- with .Values.signing.ledgerKeySecret -}}{{- $_ := set $own "events" (dict "signing_key" "/etc/kubehabit/ledger-key/key.pem") -}}{{- end -}}
{{- with .Values.signing.modelKeySecret -}}{{- $_ := set $own "model" (dict "public_key" "/etc/kubehabit/model-key/public.pem") -}}{{- end -}}
{{- /* The page of the fleet shows what the workers write there. */ -}}
{{- if .Values.worker.enabled -}}{{- with dig "worker" "state" "" .Values.worker.settings -}}{{- $_ := set $own "worker" (dict "state" .) -}}{{- end -}}{{- end -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.settings) $own) -}}
{{- end -}}

{{- define "kubehabit.workerSelector" -}}
app.kubernetes.io/name: kubehabit-worker
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* serve.yaml of the workers. */}}
{{- define "kubehabit.workerSettings" -}}
{{- $own := dict "worker" (dict "host" "0.0.0.0" "port" 8647) -}}
{{- with .Values.signing.modelKeySecret -}}{{- $_ := set $own "model" (dict "public_key" "/etc/kubehabit/model-key/public.pem") -}}{{- end -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.settings) (deepCopy .Values.worker.settings) $own) -}}
{{- end -}}

{{/* What Pod Security's profile "restricted" asks for, and a file system that cannot be written to. */}}
{{- define "kubehabit.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "kubehabit.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where workers keep their state, as a URL with a password. */}}
{{- define "kubehabit.fleetState" -}}
{{- with .Values.worker }}
{{- if and .enabled .stateSecret }}
- name: KUBEHABIT_WORKER__STATE
  valueFrom:
    secretKeyRef: {name: {{ .stateSecret | quote }}, key: {{ .stateKey | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "kubehabit.environment" -}}
- {name: KUBEHABIT_HOME, value: /var/lib/kubehabit}
{{- with .Values.registry.trackingUri }}
- {name: MLFLOW_TRACKING_URI, value: {{ . | quote }}}
{{- end }}
{{- with .Values.access.adminToken }}
{{- if .secret }}
- name: KUBEHABIT_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .secret | quote }}, key: {{ .key | quote }}}
{{- end }}
{{- end }}
{{- with .Values.environment }}
{{ toYaml . }}
{{- end }}
{{- end -}}
