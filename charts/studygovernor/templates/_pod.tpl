{{- /* The fields that every long-running pod has. Takes: root, part (values with nodeSelector, tolerations, affinity, …), component, context, account. */ -}}
{{- define "sg.podSpec" -}}
{{- $root := .root -}}{{- $global := $root.Values.global -}}{{- $part := .part -}}
serviceAccountName: {{ .account | default (include "sg.serviceAccount" $root) }}
automountServiceAccountToken: false
# Variables of other Services would look like settings of ours.
enableServiceLinks: false
{{- with $global.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $global.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext: {{- toYaml .context | nindent 2 }}
{{- with $part.nodeSelector | default $global.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations | default $global.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Affinity and spread of servers and workers. Takes: root, part, component, together (one node for all), spread. */ -}}
{{- define "sg.placement" -}}
{{- $root := .root -}}{{- $selector := include "sg.selector" . | fromYaml -}}
{{- $affinity := .part.affinity | default $root.Values.global.affinity -}}
{{- if and .together (not (hasKey $affinity "podAffinity")) -}}
{{- $rule := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" $selector) -}}
{{- $affinity = merge (dict "podAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $rule))) $affinity -}}
{{- end -}}
{{- with $affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $rules := .part.topologySpreadConstraints | default $root.Values.global.topologySpreadConstraints -}}
{{- if and (not $rules) .spread -}}
{{- $rules = list (dict "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "ScheduleAnyway") -}}
{{- end -}}
{{- with $rules }}
topologySpreadConstraints:
{{- range . }}
{{- $rule := deepCopy . }}
{{- if not $rule.labelSelector }}
{{- $_ := set $rule "labelSelector" (dict "matchLabels" $selector) }}
{{- if and (not $rule.matchLabelKeys) (semverCompare ">=1.27.0-0" $root.Capabilities.KubeVersion.Version) }}
{{- $_ := set $rule "matchLabelKeys" (list "pod-template-hash") }}
{{- end }}
{{- end }}
  - {{- toYaml $rule | nindent 4 | trimPrefix "\n   " }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Image, security and sources of variables of our own containers. Takes: root, image (fields that differ). */ -}}
{{- define "sg.container" -}}
{{- $image := mergeOverwrite (deepCopy .root.Values.image) (.image | default dict) -}}
{{- /* A tag of its own is meant, even beside a digest of the chart's image. */ -}}
{{- if and (.image).tag (not (.image).digest) }}{{ $_ := set $image "digest" "" }}{{ end -}}
image: {{ include "sg.image" (dict "root" .root "image" $image) | quote }}
imagePullPolicy: {{ $image.pullPolicy }}
securityContext: {{- toYaml .root.Values.securityContext | nindent 2 }}
{{- end -}}

{{- /* Variables of a container. Takes: root, part (server or worker), own (more of the chart), extra (of the values). */ -}}
{{- define "sg.env" -}}
envFrom:
  - configMapRef:
      name: {{ include "sg.fullname" .root }}-{{ .part }}
{{- with .root.Values.extraEnvFrom }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $secret := include "sg.secretEnv" . | trim -}}
{{- $own := .own | default list -}}
{{- $extra := concat .root.Values.extraEnv (.extra | default list) -}}
{{- if or $secret $own $extra }}
env:
{{- with $secret }}
  {{- . | nindent 2 }}
{{- end }}
{{- with $own }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $extra }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Volumes that our pods share. Takes: root, scratch (size, storageClass). */ -}}
{{- define "sg.volumes" -}}
{{- $v := .root.Values -}}{{- $git := $v.studygovernor.project.git -}}
- name: home
  emptyDir: {}
- name: tmp
  emptyDir: {}
- name: scratch
{{- if .scratch.size }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .scratch.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ .scratch.size }}
{{- else }}
  emptyDir: {}
{{- end }}
{{- if and $git.enabled $git.ssh.existingSecret }}
- name: git-key
  secret:
    secretName: {{ tpl $git.ssh.existingSecret .root | quote }}
    defaultMode: 0440
    items:
      - key: {{ $git.ssh.existingSecretKey | quote }}
        path: key
- name: git-known-hosts
  configMap:
    name: {{ include "sg.fullname" .root }}-known-hosts
{{- end }}
{{- end -}}

{{- define "sg.mounts" -}}
{{- $s := .Values.studygovernor -}}
- name: home
  mountPath: {{ $s.fastr.projectHome }}
- name: scratch
  mountPath: {{ $s.fastr.projectScratch }}
- name: tmp
  mountPath: /tmp
{{- if and $s.project.git.enabled $s.project.git.ssh.existingSecret }}
- name: git-key
  mountPath: /etc/studygovernor/git
  readOnly: true
- name: git-known-hosts
  mountPath: /etc/studygovernor/known-hosts
  readOnly: true
{{- end }}
{{- end -}}

{{- /* What only pods with the database see: the volume of files, the authority of the database. */ -}}
{{- define "sg.databaseVolumes" -}}
{{- $v := .Values -}}
{{- if $v.server.persistence.enabled }}
- name: data
  persistentVolumeClaim:
    claimName: {{ $v.server.persistence.existingClaim | default (printf "%s-data" (include "sg.fullname" .)) }}
{{- end }}
{{- if $v.externalDatabase.tls.caSecret }}
- name: database-authority
  secret:
    secretName: {{ tpl $v.externalDatabase.tls.caSecret . | quote }}
    items:
      - key: {{ $v.externalDatabase.tls.caSecretKey | quote }}
        path: ca.crt
{{- end }}
{{- end -}}

{{- define "sg.databaseMounts" -}}
{{- $v := .Values -}}{{- $home := $v.studygovernor.fastr.projectHome -}}
{{- if $v.server.persistence.enabled }}
- name: data
  mountPath: {{ $home }}/data
  subPath: data
- name: data
  mountPath: {{ $home }}/mails
  subPath: mails
{{- if include "sg.isSqlite" . }}
- name: data
  mountPath: {{ $home }}/database
  subPath: database
{{- end }}
{{- end }}
{{- if $v.externalDatabase.tls.caSecret }}
- name: database-authority
  mountPath: /etc/studygovernor/database
  readOnly: true
{{- end }}
{{- end -}}

{{- /* A claim that survives `helm uninstall` where wanted. Takes: root, component, storage, name, accessMode. */ -}}
{{- define "sg.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name }}
  labels: {{- include "sg.labels" . | nindent 4 }}
  {{- if .storage.resourcePolicy }}
  annotations:
    helm.sh/resource-policy: {{ .storage.resourcePolicy }}
  {{- end }}
spec:
  accessModes: [{{ .storage.accessMode | default "ReadWriteOnce" }}]
  {{- with .storage.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests:
      storage: {{ .storage.size }}
{{- end -}}

{{- define "sg.pdbVersion" -}}
{{ semverCompare ">=1.21.0-0" .Capabilities.KubeVersion.Version | ternary "policy/v1" "policy/v1beta1" }}
{{- end -}}
