{{- /*
Every secret that the release uses, as JSON {"items": […]}, each with
  env       the variable that carries it
  key       its name in the Secrets that the chart makes
  value, secret, secretKey    the values that were given
  at        [path of the value, path of existingSecret, path of existingSecretKey], for messages
  generate  whether the Job makes it when nothing is given
  for       the parts that get it: server, worker, postgresql, rabbitmq
Secrets reach pods by secretKeyRef only, so `helm template` and Argo CD render the same as an install.
*/ -}}
{{- define "sg.credentials" -}}
{{- $v := .Values -}}{{- $admin := $v.studygovernor.admin -}}{{- $git := $v.studygovernor.project.git -}}
{{- $database := include "sg.database" . | fromJson -}}{{- $broker := include "sg.broker" . | fromJson -}}
{{- $items := list
  (dict "env" "SECRET_KEY" "key" "secret_key" "at" "secrets.secretKey" "given" $v.secrets.secretKey "generate" true "for" (list "server"))
  (dict "env" "SECURITY_PASSWORD_SALT" "key" "password_salt" "at" "secrets.passwordSalt" "given" $v.secrets.passwordSalt "generate" true "for" (list "server"))
-}}
{{- if $admin.username -}}
{{- $items = append $items (dict "env" "STUDYGOV_ADMIN_PASSWORD" "key" "admin_password" "at" "studygovernor.admin" "given" (dict "value" $admin.password "existingSecret" $admin.existingSecret "existingSecretKey" $admin.existingSecretKey) "generate" true "for" (list "server")) -}}
{{- end -}}
{{- if $database.uri -}}
{{- $items = append $items (dict "env" "SQLALCHEMY_DATABASE_URI" "key" "database_uri" "at" "externalDatabase.uri" "given" $v.externalDatabase.uri "generate" false "for" (list "server")) -}}
{{- else if $database.own -}}
{{- $items = append $items (dict "env" "DB_PASSWORD" "key" "db_password" "at" "postgresql.password" "given" $v.postgresql.password "generate" true "for" (list "server" "postgresql")) -}}
{{- else if ne $database.kind "sqlite" -}}
{{- $items = append $items (dict "env" "DB_PASSWORD" "key" "db_password" "at" "externalDatabase.password" "given" $v.externalDatabase.password "generate" false "for" (list "server")) -}}
{{- end -}}
{{- if $broker.own -}}
{{- $items = append $items (dict "env" "STUDYGOV_BROKER_PASSWORD" "key" "broker_password" "at" "rabbitmq.password" "given" $v.rabbitmq.password "generate" true "for" (list "server" "worker" "rabbitmq")) -}}
{{- else if and $broker.there $broker.url -}}
{{- $items = append $items (dict "env" "STUDYGOV_BROKER" "key" "broker_url" "at" "externalBroker.url" "given" $v.externalBroker.url "generate" false "for" (list "server" "worker")) -}}
{{- else if $broker.there -}}
{{- $items = append $items (dict "env" "STUDYGOV_BROKER_PASSWORD" "key" "broker_password" "at" "externalBroker.password" "given" $v.externalBroker.password "generate" false "for" (list "server" "worker")) -}}
{{- end -}}
{{- if or $v.mail.username $v.mail.password.value $v.mail.password.existingSecret $v.mail.password.existingSecretKey -}}
{{- $items = append $items (dict "env" "MAIL_PASSWORD" "key" "mail_password" "at" "mail.password" "given" $v.mail.password "generate" false "for" (list "server" "worker")) -}}
{{- end -}}
{{- if and $git.enabled (or $git.existingSecret $git.existingSecretKey) -}}
{{- $items = append $items (dict "env" "PROJECT_REPO" "key" "project_repo" "at" "studygovernor.project.git" "given" (dict "value" "" "existingSecret" $git.existingSecret "existingSecretKey" $git.existingSecretKey) "generate" false "for" (list "server" "worker")) -}}
{{- end -}}
{{- $password := $git.password -}}
{{- if and $git.enabled (or $password.value $password.existingSecret $password.existingSecretKey) -}}
{{- $items = append $items (dict "env" "PROJECT_PASSWORD" "key" "project_password" "at" "studygovernor.project.git.password" "given" $password "generate" false "for" (list "server" "worker")) -}}
{{- end -}}
{{- dict "items" $items | toJson -}}
{{- end -}}

{{- /* Where the value of a credential is written in the values. */ -}}
{{- define "sg.credentialPath" -}}
{{ if eq .at "studygovernor.admin" }}studygovernor.admin.password{{ else }}{{ .at }}.value{{ end }}
{{- end -}}

{{- /* name and key of the Secret that holds a credential. Takes: root, item. */ -}}
{{- define "sg.secretRef" -}}
{{- $given := .item.given -}}
{{- if $given.existingSecret -}}
name: {{ tpl $given.existingSecret .root | quote }}
key: {{ $given.existingSecretKey | quote }}
{{- else if $given.value -}}
name: {{ include "sg.fullname" .root }}-given
key: {{ .item.key }}
{{- else -}}
name: {{ include "sg.generatedSecret" .root }}
key: {{ .item.key }}
{{- end -}}
{{- end -}}

{{- /* The variables of the secrets of one part. Takes: root, part. */ -}}
{{- define "sg.secretEnv" -}}
{{- $root := .root -}}{{- $part := .part -}}
{{- range (include "sg.credentials" $root | fromJson).items }}
{{- if has $part .for }}
- name: {{ .env }}
  valueFrom:
    secretKeyRef:
      {{- include "sg.secretRef" (dict "root" $root "item" .) | nindent 6 }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The secrets that were given as values: key: text. */ -}}
{{- define "sg.givenSecrets" -}}
{{- $given := dict -}}
{{- range (include "sg.credentials" . | fromJson).items -}}
{{- if .given.value }}{{ $_ := set $given .key (toString .given.value) }}{{ end -}}
{{- end -}}
{{- if $given }}{{ toYaml $given }}{{ end -}}
{{- end -}}

{{- /* The keys that the Job makes, separated by commas. */ -}}
{{- define "sg.generatedKeys" -}}
{{- $keys := list -}}
{{- range (include "sg.credentials" . | fromJson).items -}}
{{- if and .generate (not .given.value) (not .given.existingSecret) }}{{ $keys = append $keys .key }}{{ end -}}
{{- end -}}
{{- join "," $keys -}}
{{- end -}}
