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

{{/* An image by its digest, which wins, or its tag. */}}
{{- define "flotilla.image" -}}
{{- $image := index . 0 -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default (index . 1) $image.tag }}{{ end }}
{{- end -}}

{{- define "flotilla.operatorImage" -}}
{{ include "flotilla.image" (list .Values.operator.image .Chart.AppVersion) }}
{{- end -}}

{{- define "flotilla.serverImage" -}}
{{ include "flotilla.image" (list .Values.server.image .Chart.AppVersion) }}
{{- end -}}

{{/* Names of pull secrets as one text. */}}
{{- define "flotilla.pullSecrets" -}}
{{- range $i, $secret := . }}{{ if $i }},{{ end }}{{ $secret.name }}{{ end -}}
{{- end -}}

{{/* The namespaces that the operator acts in, as a list; empty when it acts in all. */}}
{{- define "flotilla.namespaces" -}}
{{- if .Values.operator.allNamespaces -}}
{{- if .Values.operator.namespaces -}}
{{- fail "operator.allNamespaces and operator.namespaces contradict each other" -}}
{{- end -}}
[]
{{- else -}}
{{- default (list .Release.Namespace) .Values.operator.namespaces | toJson -}}
{{- end -}}
{{- end -}}

{{/* Where the chart makes a cluster, for itself or for a test: a namespace that the operator acts in. */}}
{{- define "flotilla.testNamespace" -}}
{{- $namespaces := include "flotilla.namespaces" . | fromJsonArray -}}
{{- if or (not $namespaces) (has .Release.Namespace $namespaces) .Values.test.endpoints -}}
{{- .Release.Namespace -}}
{{- else -}}
{{- first $namespaces -}}
{{- end -}}
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

{{/* Values that came after chart 0.1.0 may be missing: `helm upgrade --reuse-values` takes those of the older chart in place of
   the defaults. What is missing is as in values.yaml; a user that is null is left to the namespace. */}}
{{- define "flotilla.podUsers" -}}
{{- if kindIs "map" .Values.podSecurity -}}
{{- toJson .Values.podSecurity -}}
{{- else -}}
{"runAsUser": 65532, "runAsGroup": 65532}
{{- end -}}
{{- end -}}
{{- define "flotilla.admissionPolicy" -}}
{{- if not (and (kindIs "map" .Values.admissionPolicy) (eq (toString .Values.admissionPolicy.enabled) "false")) -}}true{{- end -}}
{{- end -}}

{{/* What Pod Security's level "restricted" asks of a pod, and of a container. */}}
{{- define "flotilla.podSecurity" -}}
runAsNonRoot: true
{{- /* Numbers of OpenShift are so large that YAML would make fractions of them. */}}
{{- $users := include "flotilla.podUsers" . | fromJson }}
{{- with $users.runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with $users.runAsGroup }}
runAsGroup: {{ int64 . }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "flotilla.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
