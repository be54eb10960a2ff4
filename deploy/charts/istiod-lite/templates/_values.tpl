{{/* The values: what is set goes before the platform's, and those before the profile's. */}}
{{- define "istiod-lite.values" -}}
{{- $profile := coalesce .Values.profile .Values.global.profile "evaluation" | replace "ambient" "evaluation" -}}
{{- $values := .Files.Get (printf "profiles/%s.yaml" $profile) | fromYaml -}}
{{- with .Values.global.platform -}}
{{- $values = mergeOverwrite $values ($.Files.Get (printf "profiles/platform-%s.yaml" .) | default "{}" | fromYaml) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $values (include "istiod-lite.set" .Values | fromYaml)) -}}
{{- end -}}

{{/* A map without what is null. */}}
{{- define "istiod-lite.set" -}}
{{- $set := dict -}}
{{- range $key, $value := . -}}
{{- if kindIs "map" $value -}}
{{- $_ := set $set $key (include "istiod-lite.set" $value | fromYaml) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $_ := set $set $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $set -}}
{{- end -}}

{{- define "istiod-lite.labels" -}}
app.kubernetes.io/name: istiod
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: istio
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "istiod-lite.image" -}}
{{- if contains "/" .image }}{{ .image }}{{ else }}{{ .global.hub }}/{{ .image }}:{{ .global.tag | default .version }}{{ end -}}
{{- end -}}
