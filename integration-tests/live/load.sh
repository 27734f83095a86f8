# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with helm-live
# Loads: pods in the cluster that use the gateway as clients do, and remember what was acknowledged.

# pod NAME ARGUMENT...: runs the program once, under the rules of the namespace
pod() {
  local pod=$1 arguments
  shift
  arguments=$(printf '"%s",' "$@")
  kubectl -n "$space" apply -f - >/dev/null <<K
apiVersion: v1
kind: Pod
metadata: {name: $pod, labels: {app: live-load}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 300
  securityContext: {runAsNonRoot: true, runAsUser: 10001, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: load
      image: $image
      imagePullPolicy: IfNotPresent
      args: [${arguments%,}]
      env:
        - {name: CSTORE_URL, value: "http://$name-gateway:8000"}
        - name: CSTORE_TOKEN
          valueFrom: {secretKeyRef: {name: $name-secrets, key: api-token}}
      volumeMounts: [{name: names, mountPath: /names}]
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
      resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 512Mi}}
  volumes: [{name: names, configMap: {name: live-names, optional: true}}]
K
}

# begin_load NAME: 6 clients, 60 requests a second, until end_load
begin_load() {
  pod "$1" smoke --load --for=1h --clients=6 --rate=60 --size-max=256KiB --settle=180s --keep "--prefix=$1" --names=/dev/stdout || return 1
  kubectl -n "$space" wait --for=condition=ready "pod/$1" --timeout=60s >/dev/null || return 1
  load_begun=$SECONDS
}

# end_load NAME: after its least time; sets `detail`, fails when something acknowledged is lost or wrong
end_load() {
  local rest=$((load_begun + seconds - SECONDS)) code line
  [ "$rest" -le 0 ] || sleep "$rest"
  n_failed=unknown
  kubectl -n "$space" exec "$1" -- sh -c 'kill -TERM 1' >/dev/null || return 1
  ended "$1" 300 || return 1
  kubectl -n "$space" logs "$1" >"$work/$1.log" || return 1
  grep "^$1/" "$work/$1.log" >>"$work/names" || true
  grep -v "^$1/" "$work/$1.log" | sed 's/^/   | /'
  line=$(grep '^load: prefix' "$work/$1.log" || true)
  n_failed=$(sed -n 's/.*, \([0-9]*\) failed,.*/\1/p' <<<"$line")
  detail="${line#*, }"
  code=$(kubectl -n "$space" get pod "$1" -o jsonpath='{.status.containerStatuses[0].state.terminated.exitCode}')
  kubectl -n "$space" delete pod "$1" --wait=false >/dev/null
  [ "$code" = 0 ]
}

# ended POD SECONDS: waits for its end
ended() {
  local phase end=$((SECONDS + $2))
  while [ "$SECONDS" -lt "$end" ]; do
    phase=$(kubectl -n "$space" get pod "$1" -o jsonpath='{.status.phase}')
    case $phase in Succeeded | Failed) return ;; esac
    sleep 0.5
  done
  return 1
}

# check_names: reads back everything that any load was acknowledged
check_names() {
  local code
  [ -s "$work/names" ] || return 1
  kubectl -n "$space" create configmap live-names --from-file="names=$work/names" --dry-run=client -o yaml | kubectl -n "$space" apply --server-side --force-conflicts -f - >/dev/null || return 1
  # Below one prefix are the listed ones; the names tell the rest.
  pod live-check smoke --check --prefix=live --names=/names/names --clients=6 --settle=180s || return 1
  ended live-check 400 || return 1
  detail=$(kubectl -n "$space" logs live-check | tail -n 1)
  code=$(kubectl -n "$space" get pod live-check -o jsonpath='{.status.containerStatuses[0].state.terminated.exitCode}')
  kubectl -n "$space" delete pod live-check --wait >/dev/null
  [ "$code" = 0 ] && grep -q "$(wc -l <"$work/names") equal, 0 not" <<<"$detail"
}
