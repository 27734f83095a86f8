# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with helm-live
# What is done to the cluster.

# install VALUES... : helm install or upgrade with options; leaves them for upgrades
install() {
  options=(--set "image.repository=${image%:*}" --set "image.tag=${image##*:}" "$@")
  helm -n "$space" upgrade --install "$release" "$chart" "${options[@]}" --wait --timeout 240s >"$work/install" || { tail -n 5 "$work/install"; return 1; }
  detail=$(kubectl -n "$space" get pods --no-headers -l app.kubernetes.io/instance="$release" | wc -l)" pods ready"
}

uninstall() {
  helm -n "$space" uninstall "$release" --wait --timeout 240s >/dev/null || return 1
  eventually 120 gone || return 1
  detail=$(kubectl -n "$space" get pvc --no-headers | wc -l)" volumes and $(kubectl -n "$space" get secret --no-headers | grep -c "^$name") secrets stay"
}

gone() { [ -z "$(kubectl -n "$space" get pods -l "app.kubernetes.io/instance=$release,app.kubernetes.io/component!=smoke" -o name)" ]; }

# Another installation begins with other disks.
forget() {
  uninstall || return 1
  kubectl -n "$space" delete pvc,secret,pods --all --wait >/dev/null || return 1
  rm -f "$work/names"
}

helm_test() {
  helm -n "$space" test "$release" --logs --timeout 120s >"$work/test" || { cat "$work/test"; return 1; }
  detail=$(grep '^smoke: ' "$work/test")
}

pods() { kubectl -n "$space" get pods -l "app.kubernetes.io/instance=$release,app.kubernetes.io/component=$1" --field-selector=status.phase=Running -o name; }

all_ready() {
  kubectl -n "$space" rollout status "deploy/$name-gateway" "--timeout=$1s" >/dev/null &&
    kubectl -n "$space" rollout status "deploy/$name-worker" "--timeout=$1s" >/dev/null &&
    kubectl -n "$space" rollout status "sts/$name-storage" "--timeout=$1s" >/dev/null &&
    kubectl -n "$space" rollout status "sts/$name-master" "--timeout=$1s" >/dev/null
}

# delete_each ROLE [OPTION...]: one pod after the other, each time until all is ready again
delete_each() {
  local role=$1 pod
  shift
  for pod in $(pods "$role"); do
    kubectl -n "$space" delete "$pod" --wait "$@" >/dev/null || return 1
    all_ready 120 || return 1
  done
}

restart() {
  kubectl -n "$space" rollout restart "deploy/$name-$1" >/dev/null || return 1
  kubectl -n "$space" rollout status "deploy/$name-$1" --timeout=300s >/dev/null || return 1
  # The old ones leave after the new ones are ready.
  eventually 120 only_running "$1"
}

only_running() { [ -z "$(kubectl -n "$space" get pods -l "app.kubernetes.io/instance=$release,app.kubernetes.io/component=$1" -o jsonpath='{.items[*].metadata.deletionTimestamp}')" ]; }

scale() {
  local to
  for to in 3 1 2; do
    kubectl -n "$space" scale "deploy/$name-$1" --replicas=$to >/dev/null || return 1
    kubectl -n "$space" rollout status "deploy/$name-$1" --timeout=120s >/dev/null || return 1
    eventually 120 only_running "$1" || return 1
  done
}

# Under a load: `under LOAD COMMAND...`
under() {
  local load=$1 status=0
  shift
  begin_load "$load" || return 1
  "$@" || status=1
  end_load "$load" || status=1
  return "$status"
}

# As `under`, and no request may fail.
unnoticed() {
  under "$@" && [ "$n_failed" = 0 ]
}

# Ready addresses of the gateway's service.
endpoints() { kubectl -n "$space" get endpointslices -l "kubernetes.io/service-name=$name-gateway" -o jsonpath='{range .items[*].endpoints[?(@.conditions.ready==true)]}{.addresses[0]}{"\n"}{end}' | sort -u; }

# forward RESOURCE REMOTE: sets `local_port`
forward() {
  local log="$work/forward.$RANDOM"
  kubectl -n "$space" port-forward "$1" ":$2" >"$log" 2>&1 &
  forward_job=$!
  eventually 20 grep -q 'Forwarding from 127' "$log" || return 1
  local_port=$(sed -n 's/Forwarding from 127.0.0.1:\([0-9]*\).*/\1/p' "$log" | head -n 1)
}

unforward() { kill "$forward_job" 2>/dev/null || true; wait "$forward_job" 2>/dev/null || true; }

token() { kubectl -n "$space" get secret "$name-secrets" -o jsonpath='{.data.api-token}' | base64 -d; }
