{{/* SPDX-License-Identifier: Apache-2.0 */}}
{{/* YAML values as TOML. Helm's own toToml writes every number as a float, and numbers are whole in
     antiphon.toml. A string of JSON is a basic string of TOML, too. */}}

{{- define "antiphon.toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . -}}{{ . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{/* Takes {value, path}: a value on one line. */}}
{{- define "antiphon.toml.value" -}}
{{- $value := .value -}}
{{- if kindIs "string" $value -}}
{{- toJson $value -}}
{{- else if kindIs "bool" $value -}}
{{- $value -}}
{{- else if kindIs "float64" $value -}}
{{- if eq (floor $value) $value -}}{{ printf "%d" (int64 $value) }}{{- else -}}{{ toJson $value }}{{- end -}}
{{- else if or (kindIs "int" $value) (kindIs "int64" $value) -}}
{{- $value -}}
{{- else if kindIs "slice" $value -}}
{{- $items := list -}}
{{- range $item := $value -}}
{{- $items = append $items (include "antiphon.toml.value" (dict "value" $item "path" $.path)) -}}
{{- end -}}
[{{ join ", " $items }}]
{{- else if kindIs "map" $value -}}
{{- $items := list -}}
{{- range $key, $item := $value -}}
{{- $items = append $items (printf "%s = %s" (include "antiphon.toml.key" $key) (include "antiphon.toml.value" (dict "value" $item "path" (printf "%s.%s" $.path $key)))) -}}
{{- end -}}
{ {{ join ", " $items }} }
{{- else -}}
{{- fail (printf "%s has no value: leave it out, or give it one" .path) -}}
{{- end -}}
{{- end -}}

{{/* Takes {table, path, header}: scalars first, since what follows a header belongs to it. */}}
{{- define "antiphon.toml.table" -}}
{{- range $key, $value := .table -}}
{{- if not (or (kindIs "map" $value) (and (kindIs "slice" $value) $value (kindIs "map" (first (default (list "") $value))))) }}
{{ include "antiphon.toml.key" $key }} = {{ include "antiphon.toml.value" (dict "value" $value "path" (printf "%s.%s" $.path $key)) }}
{{- end -}}
{{- end -}}
{{- range $key, $value := .table -}}
{{- $header := include "antiphon.toml.key" $key -}}
{{- if $.header -}}{{- $header = printf "%s.%s" $.header $header -}}{{- end -}}
{{- $path := printf "%s.%s" $.path $key -}}
{{- if kindIs "map" $value }}

[{{ $header }}]
{{- include "antiphon.toml.table" (dict "table" $value "path" $path "header" $header) -}}
{{- else if and (kindIs "slice" $value) $value -}}
{{- if kindIs "map" (first $value) -}}
{{- range $item := $value }}

[[{{ $header }}]]
{{- include "antiphon.toml.table" (dict "table" $item "path" $path "header" $header) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
