{{/* What the pods of all processes have in common. What differs comes in as a dict: `root`, `component` (the values of the one
     that it is for: .Values, .Values.receiver or .Values.gateway), `selectorLabels`, and `graceSeconds` where it is not 30. */}}

{{- define "landfall.pod" -}}
automountServiceAccountToken: true
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
# What is under way is given 25 seconds to end; in the gateway, the longest transfer of git's.
terminationGracePeriodSeconds: {{ default 30 .graceSeconds }}
{{- with .root.Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .root.Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.topologySpreadConstraints }}
{{ include "landfall.spread" (dict "constraints" . "selectorLabels" $.selectorLabels) }}
{{- end }}
{{- with include "landfall.setFields" .root.Values.podSecurityContext }}
securityContext:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The fields of an object that are not null, as YAML; nothing where there is none. */}}
{{- define "landfall.setFields" -}}
{{- $fields := dict }}
{{- range $field, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{- $_ := set $fields $field (ternary (int64 $value) $value (kindIs "float64" $value)) }}
{{- end }}
{{- end }}
{{- with $fields }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* Labels and annotations of a pod, by the labels that select it. */}}
{{- define "landfall.podMetadata" -}}
labels:
  {{- with merge (dict) .root.Values.podLabels .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- .selectorLabels | nindent 2 }}
{{- with .root.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Without a selector a constraint would count no pod. */}}
{{- define "landfall.spread" -}}
topologySpreadConstraints:
{{- $ours := dict "labelSelector" (dict "matchLabels" (.selectorLabels | fromYaml)) }}
{{- range .constraints }}
- {{ merge (deepCopy .) $ours | toYaml | nindent 2 | trim }}
{{- end }}
{{- end }}

{{- define "landfall.container" -}}
image: {{ include "landfall.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
startupProbe:
  httpGet:
    path: /livez
    port: health
  periodSeconds: 1
  failureThreshold: 30
livenessProbe:
  httpGet:
    path: /livez
    port: health
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet:
    path: /readyz
    port: health
  periodSeconds: 5
  timeoutSeconds: 5
{{- with include "landfall.setFields" .root.Values.securityContext }}
securityContext:
  {{- . | nindent 2 }}
{{- end }}
{{- with .component.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end }}

{{/* The arguments that the controller and the receiver have in common, after their own. */}}
{{- define "landfall.args" -}}
- --features={{ include "landfall.features" .root }}
- {{ printf "--health-address=%s:8080" .root.Values.listenAddress | quote }}
- {{ printf "--log-level=%s" .root.Values.logLevel | quote }}
- --log-format={{ .root.Values.logFormat }}
{{- range .component.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}
