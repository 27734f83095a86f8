{{- /* What no schema can say: values that contradict each other, or what is installed already. */ -}}
{{- define "cstore.guards" -}}
{{- $v := .Values -}}
{{- if and $v.tls.existingSecret $v.tls.certManager.enabled -}}
{{- fail "tls.existingSecret and tls.certManager.enabled contradict each other: set one of them" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.enabled needs tls.certManager.issuerRef.name (and kind): the issuer that signs the CA" -}}
{{- end -}}
{{- if and $v.gateway.ingress.enabled (not $v.gateway.ingress.host) -}}
{{- fail "gateway.ingress.enabled needs gateway.ingress.host" -}}
{{- end -}}
{{- $capacity := include "cstore.bytes" $v.storage.capacity | int64 -}}
{{- $volume := include "cstore.bytes" $v.storage.persistence.size | int64 -}}
{{- if gt (mul $capacity 100) (mul $volume 95) -}}
{{- fail (printf "storage.capacity %s is too much for storage.persistence.size %s: leave 5 %% of the volume to its file system" $v.storage.capacity $v.storage.persistence.size) -}}
{{- end -}}
{{- range $role := list "gateway" "master" "worker" "storage" -}}
{{- $names := list "POD_NAME" "POD_IP" "CSTORE_CLUSTER_SECRET_FILE" "CSTORE_LISTEN_HOST" (printf "%s_PORT" (upper $role)) "CSTORE_ADMIN_PORT" "CSTORE_DATA_DIR" "CSTORE_DRAIN_DELAY_MS" "CSTORE_DRAIN_TIMEOUT_MS" "LOG_LEVEL" "LOG_FORMAT" "CSTORE_MASTER_ADDR" "CSTORE_TLS_DIR" "OTEL_EXPORTER_OTLP_ENDPOINT" "OTEL_TRACES_SAMPLER" "OTEL_TRACES_SAMPLER_ARG" "CSTORE_ANONYMOUS" "CSTORE_API_TOKENS_FILE" "CSTORE_MAX_CONNECTIONS" "CSTORE_MAX_CONNECTIONS_PER_ADDRESS" "CSTORE_HEADER_TIMEOUT_MS" "CSTORE_IDLE_TIMEOUT_MS" "CSTORE_JAEGER_UI_URL" "CSTORE_NODE_ID" "CSTORE_ADVERTISE_HOST" "CSTORE_MEMORY_BUDGET" "CSTORE_STORAGE_NODES" "BLOCK_SIZE" "CSTORE_HEARTBEAT_MS" "CSTORE_RELEASE_DELAY_MS" "CSTORE_TICKET_TTL_MS" "CSTORE_SNAPSHOT_BYTES" "FS_SIZE" -}}
{{- range (index $v $role).extraEnv -}}
{{- if has .name $names -}}
{{- fail (printf "%s.extraEnv: %s is set by the chart itself; use the value that README.md names for it" $role .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $role := list "gateway" "worker" -}}
{{- $scaling := (index $v $role).autoscaling -}}
{{- if and $scaling.enabled (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- fail (printf "%s.autoscaling.minReplicas %d is above maxReplicas %d" $role (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- /* The secret is kept when a release is removed, and so are the volumes: both remember how many nodes there are. */ -}}
{{- $name := include "cstore.fullname" . -}}
{{- $found := list (lookup "apps/v1" "StatefulSet" .Release.Namespace (printf "%s-storage" $name)) (lookup "v1" "Secret" .Release.Namespace (printf "%s-secrets" $name)) -}}
{{- range $found -}}
{{- with . -}}
{{- $nodes := index (default dict .metadata.annotations) "cstore/storage-nodes" -}}
{{- if and $nodes (ne $nodes (toString $v.storage.replicas)) -}}
{{- fail (printf "storage.replicas is %v, but this installation was begun with %s: blocks are spread over that many nodes, which cannot change yet" $v.storage.replicas $nodes) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
