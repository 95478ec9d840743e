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

{{/* The cluster beside the operator. What Helm itself notes on objects of a release stands here too, for the one that is
   not made by Helm: see cluster.yaml. */}}
{{- define "flotilla.cluster" -}}
apiVersion: flotilla.dev/v1alpha1
kind: KvCluster
metadata:
  name: {{ include "flotilla.clusterName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    app.kubernetes.io/part-of: flotilla
    app.kubernetes.io/managed-by: {{ .Release.Service }}
    {{- with .Values.cluster.labels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    meta.helm.sh/release-name: {{ .Release.Name }}
    meta.helm.sh/release-namespace: {{ .Release.Namespace }}
    {{- if .Values.cluster.keep }}
    helm.sh/resource-policy: keep
    {{- end }}
    {{- with .Values.cluster.annotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec: {{- toYaml .Values.cluster.spec | nindent 2 }}
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
