{{- define "landfall.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The release's name, with the chart's unless it is in it. Room is left for suffixes. */}}
{{- define "landfall.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 45 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "landfall.serviceAccountName" -}}
{{- with .Values.serviceAccount }}
{{- if not (or .create .name) }}
{{- fail "serviceAccount.create: false needs serviceAccount.name: the account that is there, to which the rules are bound" }}
{{- end }}
{{- default (include "landfall.fullname" $) .name }}
{{- end }}
{{- end }}

{{- define "landfall.selectorLabels" -}}
app.kubernetes.io/name: {{ include "landfall.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "landfall.receiver.name" -}}
{{- include "landfall.fullname" . }}-receiver
{{- end }}

{{/* The policy that holds the receiver knows its account by this name. */}}
{{- define "landfall.receiver.serviceAccountName" -}}
{{- with .Values.receiver.serviceAccount }}
{{- if not (or .create .name) }}
{{- fail "receiver.serviceAccount.create: false needs receiver.serviceAccount.name: the account that is there, to which the rules are bound" }}
{{- end }}
{{- $name := default (include "landfall.receiver.name" $) .name }}
{{- if eq $name (include "landfall.serviceAccountName" $) }}
{{- fail (printf "receiver.serviceAccount.name is the controller's account %s: the receiver faces the internet and must have an account of its own" $name) }}
{{- end }}
{{- $name }}
{{- end }}
{{- end }}

{{- define "landfall.receiver.selectorLabels" -}}
app.kubernetes.io/name: {{ include "landfall.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: receiver
{{- end }}

{{- define "landfall.gateway.name" -}}
{{- include "landfall.fullname" . }}-gateway
{{- end }}

{{/* The internal API answers this account alone. */}}
{{- define "landfall.gateway.serviceAccountName" -}}
{{- with .Values.gateway.serviceAccount }}
{{- if not (or .create .name) }}
{{- fail "gateway.serviceAccount.create: false needs gateway.serviceAccount.name: the account that is there, to which the rules are bound" }}
{{- end }}
{{- $name := default (include "landfall.gateway.name" $) .name }}
{{- if has $name (list (include "landfall.serviceAccountName" $) (include "landfall.receiver.serviceAccountName" $)) }}
{{- fail (printf "gateway.serviceAccount.name is %s, the account of another process: the gateway faces workspaces and must have an account of its own" $name) }}
{{- end }}
{{- $name }}
{{- end }}
{{- end }}

{{- define "landfall.gateway.selectorLabels" -}}
app.kubernetes.io/name: {{ include "landfall.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end }}

{{/* The host by which the gateway knows the controller's internal API. */}}
{{- define "landfall.internal.host" -}}
{{- include "landfall.fullname" . }}-internal.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "landfall.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "landfall.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "landfall.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{/* What workspaces are worked in unless they name an image. */}}
{{- define "landfall.workspaces.image" -}}
{{- with .Values.workspaces.image }}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default (default $.Chart.AppVersion $.Values.image.tag) .tag }}
{{- end }}
{{- end }}
{{- end }}

{{/* The operator's service account, as the subject of a binding. */}}
{{- define "landfall.subjects" -}}
subjects:
- kind: ServiceAccount
  name: {{ include "landfall.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
