{{/* SPDX-License-Identifier: Apache-2.0 */}}
{{/* antiphon.toml from the values: the chart's decisions over `config`. */}}

{{/* What the schema cannot say. Included once, by the ConfigMap. */}}
{{- define "antiphon.validate" -}}
{{- $values := .Values -}}
{{- $replicas := int $values.replicas -}}
{{- if $values.cluster.enabled -}}
{{- if not (or $values.cassandra.enabled $values.tryIt.cassandra.enabled) -}}
{{- fail "cluster.enabled needs Cassandra: SQLite is one file of one node; set cassandra.enabled and cassandra.contactPoints (or tryIt.cassandra.enabled)" -}}
{{- end -}}
{{- if not (or $values.cluster.etcd.endpoints $values.tryIt.etcd.enabled) -}}
{{- fail "cluster.enabled needs etcd: set cluster.etcd.endpoints (or tryIt.etcd.enabled)" -}}
{{- end -}}
{{- if and $values.cluster.etcd.endpoints $values.tryIt.etcd.enabled -}}
{{- fail "cluster.etcd.endpoints and tryIt.etcd.enabled exclude each other: which etcd is meant?" -}}
{{- end -}}
{{- if eq $values.tls.source "selfSigned" -}}
{{- fail "tls.source is selfSigned: each node would show another certificate; use certManager or secret (or generated, for trying)" -}}
{{- end -}}
{{- $source := $values.cluster.tls.source -}}
{{- if and (eq $source "secret") (not $values.cluster.tls.existingSecret) -}}
{{- fail "cluster.tls.source is secret: name it in cluster.tls.existingSecret (or use certManager, csi, or generated for trying)" -}}
{{- end -}}
{{- if and (has $source (list "certManager" "csi")) (not $values.cluster.tls.certManager.issuerRef.name) -}}
{{- fail (printf "cluster.tls.source is %s: name the issuer in cluster.tls.certManager.issuerRef.name" $source) -}}
{{- end -}}
{{- if and $values.cluster.tls.nodes (lt (int $values.cluster.tls.nodes) $replicas) -}}
{{- fail (printf "cluster.tls.nodes is %d, but there are %d replicas: every node needs a certificate" (int $values.cluster.tls.nodes) $replicas) -}}
{{- end -}}
{{- else -}}
{{- if gt $replicas 1 -}}
{{- fail (printf "replicas is %d: more than one node need cluster.enabled" $replicas) -}}
{{- end -}}
{{- if or $values.tryIt.etcd.enabled $values.cluster.etcd.endpoints -}}
{{- fail "an etcd without cluster.enabled: nobody would use it" -}}
{{- end -}}
{{- end -}}
{{- if and $values.cassandra.enabled $values.tryIt.cassandra.enabled -}}
{{- fail "cassandra.enabled and tryIt.cassandra.enabled exclude each other: which Cassandra is meant?" -}}
{{- end -}}
{{- if and $values.cassandra.enabled (not $values.cassandra.contactPoints) -}}
{{- fail "cassandra.enabled needs cassandra.contactPoints, host:port" -}}
{{- end -}}
{{- range $what, $login := dict "cassandra" $values.cassandra "cluster.etcd" $values.cluster.etcd -}}
{{- if and $login.existingSecret $login.password -}}
{{- fail (printf "%s.existingSecret and %s.password exclude each other" $what $what) -}}
{{- end -}}
{{- if and (or $login.existingSecret $login.password) (not $login.user) -}}
{{- fail (printf "%s has a password and no user: set %s.user" $what $what) -}}
{{- end -}}
{{- if and $login.user (not (or $login.existingSecret $login.password)) -}}
{{- fail (printf "%s.user has no password: set %s.existingSecret" $what $what) -}}
{{- end -}}
{{- if and $login.tls.clientCertificate (not $login.tls.existingSecret) -}}
{{- fail (printf "%s.tls.clientCertificate needs %s.tls.existingSecret" $what $what) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $values.tls.source "secret") (not $values.tls.existingSecret) -}}
{{- fail "tls.source is secret: name it in tls.existingSecret" -}}
{{- end -}}
{{- if and (eq $values.tls.source "certManager") (not $values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.source is certManager: name the issuer in tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- if and $values.metrics.serviceMonitor.enabled (not $values.metrics.enabled) -}}
{{- fail "metrics.serviceMonitor.enabled needs metrics.enabled" -}}
{{- end -}}
{{- if and $values.components (not $values.listeners.component.enabled) -}}
{{- fail "components need listeners.component.enabled" -}}
{{- end -}}
{{- $ports := dict -}}
{{- range $port := include "antiphon.ports" . | fromJsonArray -}}
{{- $number := $port.port | int | toString -}}
{{- if hasKey $ports $number -}}
{{- fail (printf "port %s is taken twice: %s and %s" $number (get $ports $number) $port.name) -}}
{{- end -}}
{{- $_ := set $ports $number $port.name -}}
{{- end -}}
{{- range $domain := $values.tls.domains -}}
{{- if not (has $domain.domain (default (list) $values.config.domains)) -}}
{{- fail (printf "tls.domains has %s, which is not in config.domains" $domain.domain) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Every port of a node, in the order of its listeners: JSON list of
     {name, port, kind, tls, paths, clients}. `clients`: part of the service for clients. */}}
{{- define "antiphon.ports" -}}
{{- $l := .Values.listeners -}}
{{- $ports := list -}}
{{- if .Values.cluster.enabled -}}
{{- $ports = append $ports (dict "name" "relay" "port" .Values.cluster.ports.relay "kind" "cluster" "clients" false) -}}
{{- end -}}
{{- if $l.c2s.enabled -}}
{{- $ports = append $ports (dict "name" "xmpp-client" "port" $l.c2s.port "kind" "c2s" "tls" "starttls" "clients" true) -}}
{{- end -}}
{{- if $l.c2sDirect.enabled -}}
{{- $ports = append $ports (dict "name" "xmpps-client" "port" $l.c2sDirect.port "kind" "c2s" "tls" "direct" "clients" true) -}}
{{- end -}}
{{- if $l.https.enabled -}}
{{- $ports = append $ports (dict "name" "https" "port" $l.https.port "kind" "http" "tls" "direct" "paths" $l.https.paths "clients" true) -}}
{{- end -}}
{{- if $l.http.enabled -}}
{{- $ports = append $ports (dict "name" "http" "port" $l.http.port "kind" "http" "tls" "none" "paths" $l.http.paths "clients" true) -}}
{{- end -}}
{{- if $l.component.enabled -}}
{{- $ports = append $ports (dict "name" "component" "port" $l.component.port "kind" "component" "clients" false) -}}
{{- end -}}
{{- $ports = append $ports (dict "name" "health" "port" $l.health.port "kind" "http" "tls" "none" "paths" (list "/livez" "/readyz") "clients" false) -}}
{{- if .Values.metrics.enabled -}}
{{- $ports = append $ports (dict "name" "metrics" "port" .Values.metrics.port "kind" "http" "tls" "none" "paths" (list "/metrics") "clients" false) -}}
{{- end -}}
{{- if .Values.cluster.enabled -}}
{{- $ports = append $ports (dict "name" "control" "port" .Values.cluster.ports.control "kind" "" "clients" false) -}}
{{- end -}}
{{- toJson $ports -}}
{{- end -}}

{{/* {user, password_file, ca, certificate, key} of a server we log in to; takes {login, name}. */}}
{{- define "antiphon.login" -}}
{{- $table := dict -}}
{{- if .login.user -}}
{{- $_ := set $table "user" .login.user -}}
{{- $_ := set $table "password_file" (printf "/etc/antiphon/passwords/%s" .name) -}}
{{- end -}}
{{- if .login.tls.existingSecret -}}
{{- $_ := set $table "ca" (printf "/etc/antiphon/%s/ca.crt" .name) -}}
{{- if .login.tls.clientCertificate -}}
{{- $_ := set $table "certificate" (printf "/etc/antiphon/%s/tls.crt" .name) -}}
{{- $_ := set $table "key" (printf "/etc/antiphon/%s/tls.key" .name) -}}
{{- end -}}
{{- end -}}
{{- toJson $table -}}
{{- end -}}

{{/* The whole document as JSON. */}}
{{- define "antiphon.document" -}}
{{- $root := . -}}
{{- $values := .Values -}}
{{- $full := include "antiphon.fullname" . -}}
{{- $document := deepCopy $values.config -}}
{{- $_ := set $document "data_dir" "/var/lib/antiphon" -}}
{{- $any := ternary "0.0.0.0" "[::]" (eq $values.ipFamily "IPv4") -}}
{{- $listeners := list -}}
{{- range $port := include "antiphon.ports" . | fromJsonArray -}}
{{- if $port.kind -}}
{{- $listener := dict "kind" $port.kind "address" (printf "%s:%d" $any (int $port.port)) -}}
{{- if $port.tls -}}{{- $_ := set $listener "tls" $port.tls -}}{{- end -}}
{{- if $port.paths -}}{{- $_ := set $listener "paths" $port.paths -}}{{- end -}}
{{- $listeners = append $listeners $listener -}}
{{- end -}}
{{- end -}}
{{- $_ := set $document "listener" $listeners -}}
{{- if ne $values.tls.source "selfSigned" -}}
{{- $_ := set $document "tls" (dict "certificate" "/etc/antiphon/tls/tls.crt" "key" "/etc/antiphon/tls/tls.key") -}}
{{- end -}}
{{- if $values.tls.domains -}}
{{- $domains := default (dict) $document.domain -}}
{{- range $index, $one := $values.tls.domains -}}
{{- $table := default (dict) (get $domains $one.domain) -}}
{{- $_ := set $table "certificate" (printf "/etc/antiphon/domains/%d/tls.crt" $index) -}}
{{- $_ := set $table "key" (printf "/etc/antiphon/domains/%d/tls.key" $index) -}}
{{- $_ := set $domains $one.domain $table -}}
{{- end -}}
{{- $_ := set $document "domain" $domains -}}
{{- end -}}
{{- if $values.components -}}
{{- $components := list -}}
{{- range $index, $one := $values.components -}}
{{- $components = append $components (dict "domain" $one.domain "secret_file" (printf "/etc/antiphon/passwords/component-%d" $index)) -}}
{{- end -}}
{{- $_ := set $document "component" $components -}}
{{- end -}}
{{- if or $values.cassandra.enabled $values.tryIt.cassandra.enabled -}}
{{- $cassandra := include "antiphon.login" (dict "login" $values.cassandra "name" "cassandra") | fromJson -}}
{{- $_ := set $cassandra "keyspace" $values.cassandra.keyspace -}}
{{- if $values.tryIt.cassandra.enabled -}}
{{- $_ := set $cassandra "contact_points" (list (printf "%s-cassandra.%s.svc:9042" $full $root.Release.Namespace)) -}}
{{- else -}}
{{- $_ := set $cassandra "contact_points" $values.cassandra.contactPoints -}}
{{- if $values.cassandra.localDatacenter -}}{{- $_ := set $cassandra "local_datacenter" $values.cassandra.localDatacenter -}}{{- end -}}
{{- if $values.cassandra.replication -}}{{- $_ := set $cassandra "replication" $values.cassandra.replication -}}{{- end -}}
{{- end -}}
{{- $_ := set $document "storage" (dict "backend" "cassandra" "cassandra" $cassandra) -}}
{{- else -}}
{{- $_ := set $document "storage" (dict "backend" "sqlite") -}}
{{- end -}}
{{- if $values.cluster.enabled -}}
{{- $etcd := include "antiphon.login" (dict "login" $values.cluster.etcd "name" "etcd") | fromJson -}}
{{- $_ := set $etcd "prefix" $values.cluster.etcd.prefix -}}
{{- if $values.tryIt.etcd.enabled -}}
{{- $_ := set $etcd "endpoints" (list (printf "%s-etcd.%s.svc:2379" $full $root.Release.Namespace)) -}}
{{- else -}}
{{- $_ := set $etcd "endpoints" $values.cluster.etcd.endpoints -}}
{{- end -}}
{{- $cluster := dict "backend" "etcd" "etcd" $etcd "tls" (dict "ca" "/etc/antiphon/cluster/ca.crt") -}}
{{- $_ := set $cluster "name" (default (printf "%s.%s" $root.Release.Namespace $full | trunc 63 | trimSuffix "-") $values.cluster.name) -}}
{{- $_ := set $cluster "control_port" $values.cluster.ports.control -}}
{{- $_ := set $cluster "drain_seconds" $values.cluster.drainSeconds -}}
{{- $_ := set $cluster "etcd_loss" $values.cluster.etcdLoss -}}
{{- $_ := set $document "cluster" $cluster -}}
{{- else -}}
{{- $_ := set $document "cluster" (dict "backend" "local") -}}
{{- end -}}
{{- toJson $document -}}
{{- end -}}

{{/* What a running node cannot take over; a change restarts the pods. All of it without a reloader. */}}
{{- define "antiphon.restartDigest" -}}
{{- $document := include "antiphon.document" . | fromJson -}}
{{- if .Values.reloader.enabled -}}
{{- $document = pick $document "data_dir" "listener" "node" "storage" "cluster" -}}
{{- end -}}
{{- toJson $document | sha256sum -}}
{{- end -}}
