{{- /* Names: at most 32 characters for the release's part, so that the longest object name fits into a label. */ -}}
{{- define "sg.fullname" -}}
{{- $chart := .Values.nameOverride | default .Chart.Name -}}
{{- $full := .Values.fullnameOverride -}}
{{- if not $full -}}
{{- $full = contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart) -}}
{{- end -}}
{{- if gt (len $full) 32 -}}
{{- $full = printf "%s-%s" ($full | trunc 25 | trimSuffix "-") (sha256sum $full | trunc 6) -}}
{{- end -}}
{{- $full -}}
{{- end -}}

{{- define "sg.generatedSecret" -}}
{{ include "sg.fullname" . }}-generated
{{- end -}}

{{- define "sg.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "sg.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- /* The whole name of an image. Takes: root, image (with the chart's image as the base where `own` is false). */ -}}
{{- define "sg.image" -}}
{{- $image := .image -}}
{{- $name := $image.repository -}}
{{- with $image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "sg.chartLabel" -}}
{{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- /* What never changes: selectors are immutable. Takes: root, component. */ -}}
{{- define "sg.selector" -}}
app.kubernetes.io/name: {{ .root.Values.nameOverride | default .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- /* Labels of an object. Takes: root, component. */ -}}
{{- define "sg.labels" -}}
{{ include "sg.selector" . }}
app.kubernetes.io/part-of: studygovernor
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | replace "+" "_" | trunc 63 | trimAll "-_." | quote }}
helm.sh/chart: {{ include "sg.chartLabel" .root }}
{{- end -}}

{{- /* Labels of a pod: without versions of the chart, so that an upgrade restarts only what has changed. Takes: root, component, more. */ -}}
{{- define "sg.podLabels" -}}
{{- $labels := merge (include "sg.selector" . | fromYaml) (.more | default dict) .root.Values.global.podLabels (dict "app.kubernetes.io/part-of" "studygovernor") -}}
{{- toYaml $labels -}}
{{- end -}}

{{- define "sg.prefix" -}}
{{- $path := .Values.ingress.pathPrefix | trimAll "/" -}}
{{- if $path }}/{{ $path }}{{ end -}}
{{- end -}}

{{- define "sg.externalPort" -}}
{{- $s := .Values.studygovernor -}}
{{- if $s.externalPort -}}
{{ $s.externalPort }}
{{- else if and (eq $s.externalProtocol "https") (eq (int .Values.service.port) 80) -}}
443
{{- else -}}
{{ .Values.service.port }}
{{- end -}}
{{- end -}}

{{- /* The product's address as people type it. */ -}}
{{- define "sg.url" -}}
{{- $s := .Values.studygovernor -}}
{{- $port := include "sg.externalPort" . -}}
{{- $usual := eq $s.externalProtocol "https" | ternary "443" "80" -}}
{{ $s.externalProtocol }}://{{ $s.externalHostname }}{{ if ne $port $usual }}:{{ $port }}{{ end }}{{ include "sg.prefix" . }}
{{- end -}}

{{- /* The servers' address inside of the cluster, for workers and KEDA. */ -}}
{{- define "sg.internalUrl" -}}
http://{{ include "sg.fullname" . }}.{{ .Release.Namespace }}.svc:{{ .Values.service.port }}{{ include "sg.prefix" . }}
{{- end -}}

{{- /* Where metrics and the load of queues are answered: a Service of its own, which neither Ingress nor route leads to. */ -}}
{{- define "sg.metricsUrl" -}}
http://{{ include "sg.fullname" . }}-metrics.{{ .Release.Namespace }}.svc:9090
{{- end -}}

{{- /* The host of Ingress and route: empty for any. */ -}}
{{- define "sg.host" -}}
{{- $name := .Values.studygovernor.externalHostname -}}
{{ .Values.ingress.host | default (eq $name "localhost" | ternary "" $name) }}
{{- end -}}

{{- define "sg.seconds" -}}
{{- /* `90`, `90s`, `30m`, `8h`, `1d` in seconds. */ -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9]+" $text | int -}}
{{- $unit := regexFind "[smhd]$" $text | default "s" -}}
{{ mul $number (get (dict "s" 1 "m" 60 "h" 3600 "d" 86400) $unit) }}
{{- end -}}

{{- /* Why a change of configuration restarts pods. Takes: root, component. */ -}}
{{- define "sg.checksum" -}}
{{- $config := include (printf "sg.settings.%s" .component) .root -}}
{{- $given := include "sg.givenSecrets" .root -}}
{{ sha256sum (printf "%s%s" $config $given) | trunc 32 }}
{{- end -}}
