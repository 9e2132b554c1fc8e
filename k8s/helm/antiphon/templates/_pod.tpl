{{/* SPDX-License-Identifier: Apache-2.0 */}}
{{/* Parts of a node's pod. */}}

{{- define "antiphon.env" -}}
- name: ANTIPHON_CONFIG
  value: /etc/antiphon/config/antiphon.toml
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: ANTIPHON_NODE_NAME
  value: $(POD_NAME)
{{- if .Values.cluster.enabled }}
{{- with .Values.cluster.zoneLabel }}
# Empty where Kubernetes does not copy the machine's label to the pod.
- name: ANTIPHON_NODE_ZONE
  valueFrom: {fieldRef: {fieldPath: {{ printf "metadata.labels['%s']" . | quote }}}}
{{- end }}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
# The listener of kind cluster is the first; other nodes are told this address.
- name: ANTIPHON_LISTENER_0_ADDRESS
  value: {{ printf "%s:%d" (ternary "[$(POD_IP)]" "$(POD_IP)" (eq .Values.ipFamily "IPv6")) (int .Values.cluster.ports.relay) | quote }}
{{- $file := ternary "tls" "$(POD_NAME)" (eq .Values.cluster.tls.source "csi") }}
- name: ANTIPHON_CLUSTER_TLS_CERTIFICATE
  value: /etc/antiphon/cluster/{{ $file }}.crt
- name: ANTIPHON_CLUSTER_TLS_KEY
  value: /etc/antiphon/cluster/{{ $file }}.key
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Whether there is a volume with passwords. */}}
{{- define "antiphon.hasPasswords" -}}
{{- if or .Values.cassandra.user .Values.cluster.etcd.user .Values.components -}}yes{{- end -}}
{{- end -}}

{{- define "antiphon.mounts" -}}
- {name: config, mountPath: /etc/antiphon/config, readOnly: true}
- {name: data, mountPath: /var/lib/antiphon}
- {name: tmp, mountPath: /tmp}
{{- if ne .Values.tls.source "selfSigned" }}
- {name: tls, mountPath: /etc/antiphon/tls, readOnly: true}
{{- end }}
{{- range $index, $_ := .Values.tls.domains }}
- {name: domain-{{ $index }}, mountPath: /etc/antiphon/domains/{{ $index }}, readOnly: true}
{{- end }}
{{- if include "antiphon.hasPasswords" . }}
- {name: passwords, mountPath: /etc/antiphon/passwords, readOnly: true}
{{- end }}
{{- if and .Values.cassandra.enabled .Values.cassandra.tls.existingSecret }}
- {name: cassandra-tls, mountPath: /etc/antiphon/cassandra, readOnly: true}
{{- end }}
{{- if .Values.cluster.enabled }}
- {name: cluster-tls, mountPath: /etc/antiphon/cluster, readOnly: true}
{{- if .Values.cluster.etcd.tls.existingSecret }}
- {name: etcd-tls, mountPath: /etc/antiphon/etcd, readOnly: true}
{{- end }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes {login, name}: the Secret's part with a certificate authority and our certificate. */}}
{{- define "antiphon.loginVolume" -}}
- name: {{ .name }}-tls
  secret:
    secretName: {{ .login.tls.existingSecret | quote }}
    defaultMode: 0440
    items:
      - {key: ca.crt, path: ca.crt}
      {{- if .login.tls.clientCertificate }}
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
      {{- end }}
{{- end -}}

{{- define "antiphon.volumes" -}}
{{- $full := include "antiphon.fullname" . -}}
- name: config
  configMap: {name: {{ $full }}}
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
{{- if or .Values.cassandra.enabled .Values.tryIt.cassandra.enabled }}
# Nothing that must last: the admin socket.
- name: data
  emptyDir: {sizeLimit: 1Gi}
{{- else if .Values.sqlite.existingClaim }}
- name: data
  persistentVolumeClaim: {claimName: {{ .Values.sqlite.existingClaim | quote }}}
{{- end }}
{{- with include "antiphon.tlsSecret" . }}
- name: tls
  secret: {secretName: {{ . | quote }}, defaultMode: 0440}
{{- end }}
{{- range $index, $one := .Values.tls.domains }}
- name: domain-{{ $index }}
  secret: {secretName: {{ $one.existingSecret | quote }}, defaultMode: 0440}
{{- end }}
{{- if include "antiphon.hasPasswords" . }}
- name: passwords
  projected:
    defaultMode: 0440
    sources:
      {{- range $name, $login := dict "cassandra" .Values.cassandra "etcd" .Values.cluster.etcd }}
      {{- if $login.user }}
      - secret:
          name: {{ default (printf "%s-passwords" $full) $login.existingSecret | quote }}
          items:
            - {key: {{ ternary $login.existingSecretKey $name (ne $login.existingSecret "") | quote }}, path: {{ $name }}}
      {{- end }}
      {{- end }}
      {{- range $index, $one := .Values.components }}
      - secret:
          name: {{ $one.existingSecret | quote }}
          items:
            - {key: {{ default "secret" $one.key | quote }}, path: component-{{ $index }}}
      {{- end }}
{{- end }}
{{- if and .Values.cassandra.enabled .Values.cassandra.tls.existingSecret }}
{{ include "antiphon.loginVolume" (dict "login" .Values.cassandra "name" "cassandra") }}
{{- end }}
{{- if .Values.cluster.enabled }}
{{- if .Values.cluster.etcd.tls.existingSecret }}
{{ include "antiphon.loginVolume" (dict "login" .Values.cluster.etcd "name" "etcd") }}
{{- end }}
{{ include "antiphon.clusterVolume" . }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* ca.crt, and POD.crt with POD.key of every pod; with csi ca.crt, tls.crt and tls.key of this. */}}
{{- define "antiphon.clusterVolume" -}}
{{- $full := include "antiphon.fullname" . -}}
{{- $tls := .Values.cluster.tls -}}
- name: cluster-tls
{{- if eq $tls.source "csi" }}
  csi:
    driver: csi.cert-manager.io
    readOnly: true
    volumeAttributes:
      csi.cert-manager.io/issuer-name: {{ $tls.certManager.issuerRef.name | quote }}
      csi.cert-manager.io/issuer-kind: {{ $tls.certManager.issuerRef.kind }}
      csi.cert-manager.io/issuer-group: {{ $tls.certManager.issuerRef.group }}
      csi.cert-manager.io/common-name: ${POD_NAME}
      csi.cert-manager.io/dns-names: ${POD_NAME},${POD_NAME}.{{ include "antiphon.headless" . }}.${POD_NAMESPACE}.svc
      csi.cert-manager.io/key-usages: digital signature,server auth,client auth
      csi.cert-manager.io/duration: {{ $tls.certManager.duration }}
      csi.cert-manager.io/renew-before: {{ $tls.certManager.renewBefore }}
      csi.cert-manager.io/fs-group: {{ .Values.podSecurityContext.fsGroup | quote }}
{{- else if eq $tls.source "certManager" }}
  projected:
    defaultMode: 0440
    sources:
      {{- range $index := until (int (include "antiphon.clusterNodes" .)) }}
      {{- $pod := printf "%s-%d" $full $index }}
      # Optional, so that no pod waits for another's certificate.
      - secret:
          name: {{ $pod }}-cluster
          optional: true
          items:
            - {key: tls.crt, path: {{ $pod }}.crt}
            - {key: tls.key, path: {{ $pod }}.key}
            {{- if eq $index 0 }}
            - {key: ca.crt, path: ca.crt}
            {{- end }}
      {{- end }}
{{- else if eq $tls.source "generated" }}
  secret:
    secretName: {{ $full }}-cluster
    defaultMode: 0440
    items: # without the authority's key
      - {key: ca.crt, path: ca.crt}
      {{- range $index := until (int (include "antiphon.clusterNodes" .)) }}
      {{- range $end := list "crt" "key" }}
      - {key: {{ $full }}-{{ $index }}.{{ $end }}, path: {{ $full }}-{{ $index }}.{{ $end }}}
      {{- end }}
      {{- end }}
{{- else }}
  secret: {secretName: {{ $tls.existingSecret | quote }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "antiphon.affinity" -}}
{{- if .Values.affinity -}}
{{ toYaml .Values.affinity }}
{{- else if and .Values.cluster.enabled (ne .Values.antiAffinity "none") -}}
{{- $selector := include "antiphon.selector" (dict "root" . "component" "node") | fromYaml -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" $selector) -}}
podAntiAffinity:
{{- if eq .Values.antiAffinity "required" }}
  requiredDuringSchedulingIgnoredDuringExecution: {{ list $term | toJson }}
{{- else }}
  preferredDuringSchedulingIgnoredDuringExecution: {{ list (dict "weight" 100 "podAffinityTerm" $term) | toJson }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Volumes of a StatefulSet for trying; takes {size, volumes}: the claim's, and those of the pod. */}}
{{- define "antiphon.tryItStorage" -}}
{{- $isLost := eq (toString .size) "0" -}}
{{- $names := .volumes -}}
{{- if $isLost -}}{{- $names = append $names "data" -}}{{- end -}}
{{- if $names }}
      volumes:
        {{- range $name := $names }}
        - {name: {{ $name }}, emptyDir: {}}
        {{- end }}
{{- end }}
{{- if not $isLost }}
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: {{ .size }}}}
{{- end }}
{{- end -}}
