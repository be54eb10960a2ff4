{{/* The values: what is set goes before the platform's, and those before the profile's. */}}
{{- define "ztunnel.values" -}}
{{- $profile := coalesce .Values.profile .Values.global.profile "evaluation" | replace "ambient" "evaluation" -}}
{{- $values := .Files.Get (printf "profiles/%s.yaml" $profile) | fromYaml -}}
{{- with .Values.global.platform -}}
{{- $values = mergeOverwrite $values ($.Files.Get (printf "profiles/platform-%s.yaml" .) | default "{}" | fromYaml) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $values (include "ztunnel.set" .Values | fromYaml)) -}}
{{- end -}}

{{/* A map without what is null. */}}
{{- define "ztunnel.set" -}}
{{- $set := dict -}}
{{- range $key, $value := . -}}
{{- if kindIs "map" $value -}}
{{- $_ := set $set $key (include "ztunnel.set" $value | fromYaml) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $_ := set $set $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $set -}}
{{- end -}}

{{- define "ztunnel.labels" -}}
app.kubernetes.io/name: ztunnel
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: istio
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "ztunnel.image" -}}
{{- if contains "/" .image }}{{ .image }}{{ else }}{{ .global.hub }}/{{ .image }}:{{ .global.tag | default .version }}{{ end -}}
{{- end -}}
