{{/* Name of every object of the operator. */}}
{{- define "flotilla.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default "operator" .Values.nameOverride -}}
{{- if hasSuffix $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "flotilla.selector" -}}
app.kubernetes.io/name: flotilla-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "flotilla.labels" -}}
{{ include "flotilla.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: flotilla
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "flotilla.serviceAccount" -}}
{{- if .Values.operator.serviceAccount.create -}}
{{- default (include "flotilla.name" .) .Values.operator.serviceAccount.name -}}
{{- else -}}
{{- required "operator.serviceAccount.name is needed when create is false" .Values.operator.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "flotilla.operatorImage" -}}
{{ .Values.operator.image.repository }}:{{ default .Chart.AppVersion .Values.operator.image.tag }}
{{- end -}}

{{- define "flotilla.serverImage" -}}
{{ .Values.server.image.repository }}:{{ default .Chart.AppVersion .Values.server.image.tag }}
{{- end -}}

{{- define "flotilla.clusterName" -}}
{{- default .Release.Name .Values.cluster.name -}}
{{- end -}}

{{/* "true" when a KvCluster can be made: its definition was there before this release. */}}
{{- define "flotilla.definitionKnown" -}}
{{- if .Capabilities.APIVersions.Has "flotilla.dev/v1alpha1/KvCluster" -}}true{{- end -}}
{{- end -}}

{{/* What Pod Security's level "restricted" asks of a pod, and of a container. */}}
{{- define "flotilla.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "flotilla.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
