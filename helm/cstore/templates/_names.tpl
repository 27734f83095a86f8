{{- /* Short, so that names of pods and revisions made of it stay below 63 characters. */ -}}
{{- define "cstore.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What finds pods: never a version, or upgrades would be refused. Takes (dict "root" $ "role" "gateway"). */ -}}
{{- define "cstore.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "cstore.labels" -}}
{{ include "cstore.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: cstore
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "cstore.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "cstore.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "cstore.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "cstore.secretName" -}}
{{- .Values.secrets.existingSecret | default (printf "%s-secrets" (include "cstore.fullname" .)) -}}
{{- end -}}

{{- define "cstore.caSecretName" -}}
{{- .Values.tls.existingSecret | default (printf "%s-ca" (include "cstore.fullname" .)) -}}
{{- end -}}

{{- define "cstore.tracesEndpoint" -}}
{{- if .Values.tracing.endpoint -}}
{{- .Values.tracing.endpoint -}}
{{- else if .Values.jaeger.enabled -}}
http://{{ include "cstore.fullname" . }}-jaeger:4317
{{- end -}}
{{- end -}}

{{- /* 16GiB or 20Gi as a number of bytes. */ -}}
{{- define "cstore.bytes" -}}
{{- $number := regexFind "^[0-9]+" (toString .) | int64 -}}
{{- $unit := regexReplaceAll "^[0-9]+" (toString .) "" | trimSuffix "B" -}}
{{- $factors := dict "" 1 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mul $number (get $factors $unit | int64) -}}
{{- end -}}

{{- /* Names under which others dial a pod of this role; the certificate carries them. */ -}}
{{- define "cstore.hosts" -}}
{{- $name := printf "%s-%s" (include "cstore.fullname" .root) .role -}}
{{- $space := .root.Release.Namespace -}}
{{- $hosts := list "localhost" "127.0.0.1" "$(POD_IP)" -}}
{{- if eq .role "master" -}}
{{- $hosts = concat $hosts (list $name (printf "%s.%s" $name $space) (printf "%s.%s.svc" $name $space) (printf "%s.%s.svc.%s" $name $space .root.Values.clusterDomain)) -}}
{{- else if eq .role "storage" -}}
{{- $pod := printf "$(POD_NAME).%s" $name -}}
{{- $hosts = concat $hosts (list $pod (printf "%s.%s.svc.%s" $pod $space .root.Values.clusterDomain)) -}}
{{- end -}}
{{- join "," $hosts -}}
{{- end -}}
