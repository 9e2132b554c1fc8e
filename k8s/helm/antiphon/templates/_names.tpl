{{/* SPDX-License-Identifier: Apache-2.0 */}}
{{/* Names and labels. */}}

{{- define "antiphon.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: pods, services and certificates put something behind it. */}}
{{- define "antiphon.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "antiphon.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "antiphon.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "antiphon.headless" -}}{{ include "antiphon.fullname" . }}-nodes{{- end -}}

{{/* What never changes, since selectors cannot: takes {root, component}. */}}
{{- define "antiphon.selector" -}}
app.kubernetes.io/name: {{ include "antiphon.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "antiphon.labels" -}}
{{ include "antiphon.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "antiphon.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "antiphon.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "antiphon.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* Of every container, ours or for trying. */}}
{{- define "antiphon.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "antiphon.tlsSecret" -}}
{{- if eq .Values.tls.source "secret" -}}{{ .Values.tls.existingSecret }}
{{- else if ne .Values.tls.source "selfSigned" -}}{{ include "antiphon.fullname" . }}-tls
{{- end -}}
{{- end -}}

{{- define "antiphon.clusterNodes" -}}
{{- max (int .Values.replicas) (int .Values.cluster.tls.nodes) -}}
{{- end -}}

{{/* Names that a node's certificate is for; takes {root, pod}. The first is the node's own. */}}
{{- define "antiphon.nodeNames" -}}
{{- $host := printf "%s.%s.%s.svc" .pod (include "antiphon.headless" .root) .root.Release.Namespace -}}
{{- list .pod $host | toJson -}}
{{- end -}}

{{/* Seconds from the deletion of a pod to its SIGKILL. */}}
{{- define "antiphon.grace" -}}
{{- $drain := int (dig "node" "drain_seconds" 10 .Values.config) -}}
{{- $handover := ternary (int .Values.cluster.drainSeconds) 0 .Values.cluster.enabled -}}
{{- $least := add (int .Values.preStopSleepSeconds) $handover (mul 2 $drain) 15 -}}
{{- $given := int .Values.terminationGracePeriodSeconds -}}
{{- if and $given (lt $given (int $least)) -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but a stop takes up to %d seconds: preStopSleepSeconds + cluster.drainSeconds + 2 x config.node.drain_seconds + 15; raise it, or set 0 to have it computed" $given (int $least)) -}}
{{- end -}}
{{- default $least $given -}}
{{- end -}}

{{/* The ports of a list of host:port, each once, as a JSON list. */}}
{{- define "antiphon.portsOf" -}}
{{- $ports := list -}}
{{- range $place := . -}}
{{- $ports = append $ports (regexFind "[0-9]+$" $place | int) -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}
