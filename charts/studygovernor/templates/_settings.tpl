{{- /* What database, broker and callbacks come to, as JSON: everything else asks here and not the values. */ -}}
{{- define "sg.database" -}}
{{- $v := .Values -}}{{- $db := $v.studygovernor.db -}}{{- $external := $v.externalDatabase -}}
{{- $uri := not (not (or $external.uri.value $external.uri.existingSecret $external.uri.existingSecretKey)) -}}
{{- $scheme := $external.scheme | default $db.schema -}}
{{- $kind := "postgresql" -}}
{{- if hasPrefix "sqlite" $scheme }}{{ $kind = "sqlite" }}{{ else if or (hasPrefix "mysql" $scheme) (hasPrefix "mariadb" $scheme) }}{{ $kind = "mysql" }}{{ end -}}
{{- $host := $external.host | default $db.host -}}
{{- $port := $external.port | default $db.port -}}
{{- if and $v.postgresql.enabled (not $host) }}{{ $host = printf "%s-postgresql" (include "sg.fullname" .) }}{{ $port = $port | default 5432 }}{{ end -}}
{{- dict "uri" $uri "kind" $kind "scheme" $scheme "host" $host "port" $port "name" ($external.name | default $db.name) "user" ($external.user | default $db.user) "own" $v.postgresql.enabled | toJson -}}
{{- end -}}

{{- define "sg.broker" -}}
{{- $v := .Values -}}
{{- $url := not (not (or $v.externalBroker.url.value $v.externalBroker.url.existingSecret $v.externalBroker.url.existingSecretKey)) -}}
{{- if $v.rabbitmq.enabled -}}
{{- dict "there" true "own" true "url" $url "host" (printf "%s-rabbitmq" (include "sg.fullname" .)) "port" 5672 "vhost" "/" "user" $v.rabbitmq.user "tls" false | toJson -}}
{{- else -}}
{{- $e := $v.externalBroker -}}
{{- dict "there" (or $url (ne $e.host "")) "own" false "url" $url "host" $e.host "port" $e.port "vhost" $e.vhost "user" $e.user "tls" $e.tls | toJson -}}
{{- end -}}
{{- end -}}

{{- define "sg.callbackMethod" -}}
{{- $broker := include "sg.broker" . | fromJson -}}
{{ .Values.studygovernor.callbacks.method | default ($broker.there | ternary "rabbitmq" "local") }}
{{- end -}}

{{- /* "true" where workers take callbacks from a broker. */ -}}
{{- define "sg.hasWorkers" -}}
{{- has (include "sg.callbackMethod" .) (list "rabbitmq" "celery") | ternary "true" "" -}}
{{- end -}}

{{- /* "true" where servers share a volume that one node holds. */ -}}
{{- define "sg.oneNode" -}}
{{- $p := .Values.server.persistence -}}
{{- and $p.enabled (eq $p.accessMode "ReadWriteOnce") | ternary "true" "" -}}
{{- end -}}

{{- define "sg.isSqlite" -}}
{{- $database := include "sg.database" . | fromJson -}}
{{- and (eq $database.kind "sqlite") (not $database.uri) | ternary "true" "" -}}
{{- end -}}

{{- /* Settings that servers and workers share. A variable set to nothing counts as not set, so empty ones are left out. */ -}}
{{- define "sg.settings.shared" -}}
{{- $v := .Values -}}{{- $s := $v.studygovernor -}}{{- $git := $s.project.git -}}
{{- $broker := include "sg.broker" . | fromJson -}}
{{- $all := dict
  "STUDYGOV_INSTANCE_NAME" $s.instanceName
  "STUDYGOV_PROJECT_NAME" $s.projectName
  "STUDYGOV_EMAIL_PREFIX" $s.emailPrefix
  "STUDYGOV_EMAIL_FROM" $s.emailFrom
  "STUDYGOV_EMAIL_TO" $s.emailTo
  "MAIL_SERVER" $v.mail.server
  "MAIL_PORT" $v.mail.port
  "MAIL_USERNAME" $v.mail.username
  "STUDYGOV_XNAT_PROJECT" $s.fastr.xnatProject
  "STUDYGOV_PROJECT_HOME" $s.fastr.projectHome
  "STUDYGOV_PROJECT_SCRATCH" $s.fastr.projectScratch
  "STUDYGOV_DATA_DIR" (printf "%s/data" $s.fastr.projectHome)
  "HOME" $s.fastr.projectHome
-}}
{{- if $v.mail.server }}{{ $_ := mustMerge $all (dict "MAIL_USE_TLS" (toString $v.mail.useTLS) "MAIL_USE_SSL" (toString $v.mail.useSSL)) }}{{ end -}}
{{- if $v.mail.suppressSend }}{{ $_ := set $all "MAIL_SUPPRESS_SEND" "true" }}{{ end -}}
{{- if $git.enabled -}}
{{- $_ := mustMerge $all (dict "PROJECT_REPO" $git.url "PROJECT_BRANCH" $git.branch "PROJECT_RELATIVE_PATH" $git.relativePath "STUDYGOV_PROJECT_SYNC" $git.sync) -}}
{{- if $git.ssh.existingSecret -}}
{{- $_ := set $all "GIT_SSH_COMMAND" "ssh -i /etc/studygovernor/git/key -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/etc/studygovernor/known-hosts/known_hosts" -}}
{{- end -}}
{{- end -}}
{{- if and $broker.there (not $broker.url) (include "sg.hasWorkers" .) -}}
{{- $_ := mustMerge $all (dict "STUDYGOV_BROKER_HOST" $broker.host "STUDYGOV_BROKER_PORT" $broker.port "STUDYGOV_BROKER_VHOST" $broker.vhost "STUDYGOV_BROKER_USER" $broker.user) -}}
{{- if $broker.tls }}{{ $_ := set $all "STUDYGOV_BROKER_TLS" "true" }}{{ end -}}
{{- end -}}
{{- range $name, $value := $v.settings }}{{ $_ := set $all $name $value }}{{ end -}}
{{- include "sg.asSettings" $all -}}
{{- end -}}

{{- /* Settings of servers, the migration Job and nothing else: workers know neither the database nor the accounts. */ -}}
{{- define "sg.settings.server" -}}
{{- $v := .Values -}}{{- $s := $v.studygovernor -}}
{{- $database := include "sg.database" . | fromJson -}}
{{- $all := dict
  "STUDYGOV_HOST" $s.host
  "STUDYGOV_PORT" $s.port
  "STUDYGOV_EXTERNAL_HOSTNAME" $s.externalHostname
  "STUDYGOV_EXTERNAL_PROTO" $s.externalProtocol
  "STUDYGOV_EXTERNAL_PORT" (include "sg.externalPort" .)
  "STUDYGOV_TRUSTED_PROXIES" (join "," $s.trustedProxies | default (or $v.ingress.enabled $v.gateway.enabled | ternary "" "none"))
  "SCRIPT_NAME" (include "sg.prefix" .)
  "APPLICATION_ROOT" (include "sg.prefix" .)
  "GUNICORN_WORKER_CLASS" $s.gunicorn.workerClass
  "GUNICORN_WORKER_CONNECTIONS" $s.gunicorn.workerConnections
  "GUNICORN_TIMEOUT" $s.gunicorn.timeout
  "STUDYGOV_CALLBACK_METHOD" (include "sg.callbackMethod" .)
  "STUDYGOV_METRICS_LISTEN" ":9090"
  "STUDYGOV_MIGRATE" (eq $v.migrations.mode "job" | ternary "wait" $v.migrations.mode)
  "SECURITY_REGISTERABLE" (toString $s.security.registerable)
  "SECURITY_CHANGEABLE" (toString $s.security.changeable)
  "SECURITY_RECOVERABLE" (toString $s.security.recoverable)
  "SECURITY_CONFIRMABLE" (toString $s.security.confirmable)
-}}
{{- if $s.admin.username -}}
{{- $_ := mustMerge $all (dict "STUDYGOV_ADMIN_USERNAME" $s.admin.username "STUDYGOV_ADMIN_EMAIL" $s.admin.email "STUDYGOV_ADMIN_FORCE_UPDATE" (toString $s.admin.force_update)) -}}
{{- end -}}
{{- if include "sg.isSqlite" . -}}
{{- $_ := mustMerge $all (dict "DB_SCHEMA" "sqlite" "DB_NAME" (printf "%s/database/studygovernor.db" $s.fastr.projectHome)) -}}
{{- else if not $database.uri -}}
{{- $_ := mustMerge $all (dict "DB_SCHEMA" $database.scheme "DB_NAME" $database.name "DB_USER" $database.user "DB_HOST" $database.host "DB_PORT" $database.port) -}}
{{- end -}}
{{- with $v.externalDatabase.tls.mode }}{{ $_ := set $all "DB_SSL_MODE" . }}{{ end -}}
{{- if $v.externalDatabase.tls.caSecret }}{{ $_ := set $all "DB_SSL_CA" "/etc/studygovernor/database/ca.crt" }}{{ end -}}
{{- $_ := mustMerge $all (include "sg.settings.shared" . | fromYaml) -}}
{{- include "sg.asSettings" $all -}}
{{- end -}}

{{- define "sg.settings.worker" -}}
{{- $all := dict "STUDYGOV_SERVER" (include "sg.internalUrl" .) "STUDYGOV_WORKER_LISTEN" ":9090" -}}
{{- $_ := mustMerge $all (include "sg.settings.shared" . | fromYaml) -}}
{{- include "sg.asSettings" $all -}}
{{- end -}}

{{- /* Names and texts, without those that are empty. Whole numbers come as floats out of YAML. */ -}}
{{- define "sg.asSettings" -}}
{{- $texts := dict -}}
{{- range $name, $value := . -}}
{{- $text := kindIs "float64" $value | ternary (toString $value) (toString $value) -}}
{{- if and (kindIs "float64" $value) (eq (floor $value) $value) }}{{ $text = printf "%.0f" $value }}{{ end -}}
{{- if ne $text "" }}{{ $_ := set $texts $name $text }}{{ end -}}
{{- end -}}
{{- toYaml $texts -}}
{{- end -}}
