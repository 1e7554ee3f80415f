{{/* What is scraped: the controller, and the receiver where there is one. */}}
{{- define "landfall.targets" -}}
{{- $controller := dict "component" "controller" "name" (include "landfall.fullname" .) "selectorLabels" (include "landfall.selectorLabels" .) }}
{{- $targets := list $controller }}
{{- if .Values.receiver.enabled }}
{{- $targets = append $targets (dict "component" "receiver" "name" (include "landfall.receiver.name" .) "selectorLabels" (include "landfall.receiver.selectorLabels" .)) }}
{{- end }}
{{- toYaml $targets }}
{{- end }}

{{/* How a target is scraped, by the values of the monitor. */}}
{{- define "landfall.endpoint" -}}
path: /metrics
interval: {{ .interval }}
{{- with .relabelings }}
relabelings:
{{ toYaml . }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
{{ toYaml . }}
{{- end }}
{{- end }}
