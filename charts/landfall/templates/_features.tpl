{{/* The features that are on, with commas, as the flag --features takes them. */}}
{{- define "landfall.features" -}}
{{- $features := list "tokens" }}
{{- with .Values.features }}
{{- if and .workspaces.enabled (not .repositories.enabled) }}
{{- fail "features.workspaces needs features.repositories: a workspace is a clone of what a ProjectRepository follows; enable it, or disable both" }}
{{- end }}
{{- if .repositories.enabled }}
{{- $features = append $features "repositories" }}
{{- end }}
{{- if .workspaces.enabled }}
{{- $features = append $features "workspaces" }}
{{- end }}
{{- end }}
{{- join "," $features }}
{{- end }}

{{/* The rules of a set with the features that are on. They are made from the source, where each has its reason
     (src/manifests.rs). */}}
{{- define "landfall.rules" -}}
{{- $rules := list }}
{{- range splitList "," (include "landfall.features" .root) }}
{{- with $.root.Files.Get (printf "files/rbac/%s/%s.yaml" $.set .) }}
{{- $rules = concat $rules (fromYaml .).rules }}
{{- end }}
{{- end -}}
rules:
{{ toYaml $rules }}
{{- end }}
