{{- /* The pod of the migration Job: a server that migrates and ends. */ -}}
{{- define "sg.migrateTemplate" }}
{{- $here := dict "root" . "component" "migrate" "part" dict }}
metadata:
  labels: {{- include "sg.podLabels" $here | nindent 4 }}
  {{- with .Values.global.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "sg.podSpec" (merge (dict "context" .Values.podSecurityContext) $here) | nindent 2 }}
  restartPolicy: Never
  containers:
    - name: migrate
      {{- include "sg.container" (dict "root" .) | nindent 6 }}
      args: [db, migrate]
      {{- include "sg.env" (dict "root" . "part" "server" "extra" .Values.server.extraEnv) | nindent 6 }}
      {{- with .Values.migrations.resources }}
      resources: {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        {{- include "sg.mounts" . | nindent 8 }}
        {{- with include "sg.databaseMounts" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "sg.volumes" (dict "root" . "scratch" dict) | nindent 4 }}
    {{- with include "sg.databaseVolumes" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end }}
