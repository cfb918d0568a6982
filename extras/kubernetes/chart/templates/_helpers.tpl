{{- define "labels" -}}
application: patroni-rs
cluster-name: {{ .Release.Name }}
{{- end -}}
{{- define "secret" -}}
{{ .Values.existingSecret | default (printf "%s-passwords" .Release.Name) }}
{{- end -}}
{{- define "patroni.yml" -}}
scope: {{ .Release.Name }}
{{- if eq .Values.store "embedded" }}
raft:
  data_dir: /var/lib/postgresql/data/store
  partner_addrs:
    {{- range $i := until (int .Values.replicas) }}
    - {{ $.Release.Name }}-{{ $i }}.{{ $.Release.Name }}-pods:9008
    {{- end }}
{{- else }}
kubernetes:
  labels: {application: patroni-rs}
  scope_label: cluster-name
  role_label: role
  use_endpoints: {{ .Values.useEndpoints }}
  ports: [{name: postgresql, port: 5432}]
{{- end }}
bootstrap:
  dcs:
    {{- toYaml .Values.dcs | nindent 4 }}
  initdb:
    - encoding: UTF8
    - data-checksums
restapi:
  listen: 0.0.0.0:8008
postgresql:
  listen: 0.0.0.0:5432
  data_dir: /var/lib/postgresql/data/pgdata
  pgpass: /run/patroni/pgpass
  parameters:
    unix_socket_directories: /run/patroni
  pg_hba:
    {{- toYaml .Values.pgHba | nindent 4 }}
{{- with .Values.extraConfig }}
{{ toYaml . }}
{{- end }}
{{- end -}}
