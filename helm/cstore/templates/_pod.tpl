{{- /* Environment of all containers of a role. */ -}}
{{- define "cstore.env" -}}
{{- $root := .root -}}
{{- $values := index $root.Values .role -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- {name: CSTORE_CLUSTER_SECRET_FILE, value: /run/secrets/cstore/cluster-secret}
- {name: CSTORE_LISTEN_HOST, value: {{ $root.Values.listenHost | quote }}}
- {name: {{ upper .role }}_PORT, value: {{ index $root.Values.ports .role | quote }}}
- {name: CSTORE_ADMIN_PORT, value: {{ $root.Values.ports.admin | quote }}}
- {name: CSTORE_DATA_DIR, value: /data}
- {name: CSTORE_DRAIN_DELAY_MS, value: "{{ $values.drain.delaySeconds }}s"}
- {name: CSTORE_DRAIN_TIMEOUT_MS, value: "{{ $values.drain.timeoutSeconds }}s"}
- {name: LOG_LEVEL, value: {{ $root.Values.log.level | quote }}}
- {name: LOG_FORMAT, value: {{ $root.Values.log.format | quote }}}
{{- if ne .role "master" }}
- {name: CSTORE_MASTER_ADDR, value: "{{ include "cstore.fullname" $root }}-master:{{ $root.Values.ports.master }}"}
{{- end }}
{{- if $root.Values.tls.enabled }}
- {name: CSTORE_TLS_DIR, value: /tls/$(POD_NAME)}
{{- end }}
{{- with include "cstore.tracesEndpoint" $root }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
{{- with $root.Values.tracing.sampler }}
- {name: OTEL_TRACES_SAMPLER, value: {{ . | quote }}}
{{- end }}
{{- with $root.Values.tracing.samplerArg }}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- with .env }}
{{ . }}
{{- end }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Pod template of a role. Takes root, role, env (text), claim (whether /data is a volume of its own). */ -}}
{{- define "cstore.pod" -}}
{{- $root := .root -}}
{{- $values := index $root.Values .role -}}
metadata:
  labels:
    {{- include "cstore.selector" . | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: {{ .role }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "cstore.serviceAccount" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml $root.Values.podSecurityContext | nindent 4 }}
  # The notice, the drain, and time to flush and close.
  terminationGracePeriodSeconds: {{ add $values.drain.delaySeconds $values.drain.timeoutSeconds 15 }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: {{ $values.spread.topologyKey }}
      whenUnsatisfiable: {{ $values.spread.whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "cstore.selector" . | nindent 10 }}
  {{- if $root.Values.tls.enabled }}
  initContainers:
    # Only this container sees the key of the CA.
    - name: certificate
      image: {{ include "cstore.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      securityContext:
        {{- toYaml $root.Values.containerSecurityContext | nindent 8 }}
      args:
        - admin
        - certs
        - --ca=/ca/tls.crt
        - --ca-key=/ca/tls.key
        - --out=/tls
        - --node=$(POD_NAME)
        - --host={{ include "cstore.hosts" . }}
        - --days={{ $root.Values.tls.leafDays }}
        - --force
      env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: POD_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
      resources:
        requests: {cpu: 10m, memory: 16Mi}
        limits: {memory: 64Mi}
      volumeMounts:
        - {name: ca, mountPath: /ca, readOnly: true}
        - {name: tls, mountPath: /tls}
  {{- end }}
  containers:
    - name: {{ .role }}
      image: {{ include "cstore.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      securityContext:
        {{- toYaml $root.Values.containerSecurityContext | nindent 8 }}
      args: [{{ .role }}]
      env:
        {{- include "cstore.env" . | nindent 8 }}
      ports:
        - {name: {{ .role }}, containerPort: {{ index $root.Values.ports .role }}, protocol: TCP}
        - {name: admin, containerPort: {{ $root.Values.ports.admin }}, protocol: TCP}
      # Live does not depend on anybody; ready is registered and connected.
      startupProbe:
        httpGet: {path: /live, port: admin}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 150
      livenessProbe:
        httpGet: {path: /live, port: admin}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /ready, port: admin}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 1
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      volumeMounts:
        - {name: secrets, mountPath: /run/secrets/cstore, readOnly: true}
        {{- if $root.Values.tls.enabled }}
        - {name: tls, mountPath: /tls, readOnly: true}
        {{- end }}
        {{- if .claim }}
        - {name: data, mountPath: /data}
        {{- end }}
  volumes:
    - name: secrets
      secret:
        secretName: {{ include "cstore.secretName" $root }}
        # 0440: the group of the pod
        defaultMode: 288
        items:
          - {key: cluster-secret, path: cluster-secret}
          {{- if eq .role "gateway" }}
          - {key: api-tokens, path: api-tokens}
          {{- end }}
    {{- if $root.Values.tls.enabled }}
    - name: ca
      secret:
        secretName: {{ include "cstore.caSecretName" $root }}
        # 0440: the group of the pod
        defaultMode: 288
    - name: tls
      emptyDir: {medium: Memory, sizeLimit: 1Mi}
    {{- end }}
{{- end -}}
