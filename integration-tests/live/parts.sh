# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with helm-live
# The parts of the run.

part_default() {
  step "default: helm install --wait" install
  step "default: helm test" helm_test
  step "default: the commands that NOTES.txt prints" notes
  for role in gateway worker storage master; do
    step "default: delete each $role under load" under "live-delete-$role" delete_each "$role"
  done
  step "default: kill -9 of a storage node and the master" under live-kill kill_some
  step "default: helm upgrade, other version and values" under live-upgrade upgrade
  step "default: helm rollback touches no secret" rollback
  step "default: rolling restart of gateway, no failure" unnoticed live-restart-gateway restart gateway
  step "default: rolling restart of worker, no failure" unnoticed live-restart-worker restart worker
  step "default: scale gateway 3, 1, 2, no failure" unnoticed live-scale-gateway scale gateway
  step "default: scale worker 3, 1, 2, no failure" unnoticed live-scale-worker scale worker
  step "default: a pod that is not ready gets no traffic" not_ready
  step "default: a drain finishes a slow upload (gateway)" slow_upload gateway
  step "default: a drain finishes a slow upload (worker)" slow_upload worker
  step "default: budgets let one pod go, and not two" budgets
  step "default: every acknowledged file" check_names
  step "default: uninstall" uninstall
  step "default: install again on the volumes that stayed" install
  step "default: every acknowledged file again" check_names
  step "default: more storage nodes are refused" refuse_storage
  step "default: removed" forget
}

part_dev() {
  step "dev: helm install --wait" install -f "$chart/values-dev.yaml"
  step "dev: helm test" helm_test
  step "dev: the commands that NOTES.txt prints" notes
  step "dev: removed" forget
}

part_ha() {
  local role small=()
  # Twelve pods may have to share one small machine.
  for role in gateway worker master storage; do small+=(--set "$role.resources.requests.cpu=20m,$role.resources.requests.memory=32Mi"); done
  step "ha: helm install --wait" install -f "$chart/values-ha.yaml" "${small[@]}"
  step "ha: helm test" helm_test
  step "ha: the commands that NOTES.txt prints" notes
  for role in gateway worker storage master; do
    step "ha: delete each $role under load" under "live-delete-$role" delete_each "$role"
  done
  step "ha: rolling restart of gateway, no failure" unnoticed live-restart-gateway restart gateway
  step "ha: every acknowledged file" check_names
  step "ha: removed" forget
}

part_traces() {
  local jaeger=(--set jaeger.enabled=true)
  [ -z "${JAEGER_IMAGE:-}" ] || jaeger+=(--set "jaeger.image.repository=${JAEGER_IMAGE%:*}" --set "jaeger.image.tag=${JAEGER_IMAGE##*:}")
  step "traces: helm install --wait with Jaeger" install "${jaeger[@]}"
  step "traces: helm test" helm_test
  step "traces: delete each gateway under load" under live-delete-gateway delete_each gateway
  step "traces: an upload over four services in Jaeger" trace
  step "traces: removed" forget
}

# Runs what a user would copy: every indented line, port-forwards in the background.
notes() {
  local forwards="$work/forwards" commands="$work/commands"
  helm -n "$space" get notes "$release" | sed -n 's/^    //p' >"$work/notes"
  grep ' port-forward ' "$work/notes" | grep -v jaeger >"$forwards"
  grep -Ev ' port-forward | test |^http' "$work/notes" >"$commands"
  command -v grpcurl >/dev/null || { echo "SKIP helm-live grpcurl: grpcurl is not on this machine"; sed -i '/^grpcurl/d' "$commands"; }
  local jobs=() line status=0
  : >"$work/forward.log"
  while read -r line; do
    bash -c "exec $line" >>"$work/forward.log" 2>&1 </dev/null &
    jobs+=($!)
  done <"$forwards"
  # Both, or the commands would go to whoever has these ports.
  for line in 8000 4100; do
    eventually 20 grep -q "Forwarding from 127.0.0.1:$line" "$work/forward.log" || return 1
  done
  rm -rf "$work/user" && mkdir "$work/user"
  (cd "$work/user" && bash -euo pipefail "$commands" >"$work/notes.out" 2>&1) || { status=1; sed 's/^/   | /' "$work/notes.out"; }
  for line in "${jobs[@]}"; do kill "$line" 2>/dev/null || true; wait "$line" 2>/dev/null || true; done
  detail="$(wc -l <"$commands") commands"
  # The answer to the upload stands before it, and may end without a line of its own.
  grep -q 'hello$' "$work/notes.out" && [ "$status" -eq 0 ]
}

kill_some() {
  delete_one "$name-storage-0" && delete_one "$name-master-0"
}

delete_one() {
  kubectl -n "$space" delete pod "$1" --grace-period=0 --force >/dev/null 2>&1
  sleep 1
  all_ready 120
}

upgrade() {
  local next="$work/next"
  rm -rf "$next" && cp -r "$chart" "$next"
  sed -i 's/^version: .*/version: 9.9.9/; s/^appVersion: .*/appVersion: 9.9.9/' "$next/Chart.yaml"
  helm -n "$space" upgrade "$release" "$next" "${options[@]}" --set log.level=DEBUG --set worker.memoryBudget=128MiB \
    --set storage.capacity=17GiB --wait --timeout 300s >/dev/null || return 1
  all_ready 120 || return 1
  for role in gateway worker; do eventually 120 only_running "$role" || return 1; done
}

rollback() {
  local before
  before=$(secret_versions)
  helm -n "$space" rollback "$release" 1 --wait --timeout 300s >/dev/null || return 1
  all_ready 120 || return 1
  detail="$before"
  [ "$before" = "$(secret_versions)" ]
}

secret_versions() { kubectl -n "$space" get secret "$name-secrets" "$name-ca" -o jsonpath='{range .items[*]}{.metadata.name} {.metadata.resourceVersion} {end}'; }

not_ready() {
  local before after
  before=$(endpoints | wc -l)
  kubectl -n "$space" scale "sts/$name-master" --replicas=0 >/dev/null
  eventually 60 no_endpoints || return 1
  kubectl -n "$space" scale "sts/$name-master" --replicas=1 >/dev/null
  all_ready 120 || return 1
  after=$(endpoints | wc -l)
  detail="$before ready addresses, 0 without a master, then $after"
  [ "$before" = "$after" ]
}

no_endpoints() { [ -z "$(endpoints)" ]; }

# slow_upload ROLE: 12 s of upload, in the middle of which every pod of the role is told to end
slow_upload() {
  local pod target begun status address
  pod=$(pods gateway | head -n 1)
  target=$pod
  forward "$pod" 8000 || return 1
  head -c 6000000 /dev/urandom >"$work/slow"
  begun=$SECONDS
  curl -sS --limit-rate 500k -o "$work/slow.answer" -w '%{http_code}' -H "authorization: Bearer $(token)" \
    -T "$work/slow" "http://127.0.0.1:$local_port/api/files/live-slow-$1?overwrite=true" >"$work/slow.status" 2>"$work/slow.error" &
  local upload=$!
  sleep 3
  if [ "$1" = gateway ]; then
    address=$(kubectl -n "$space" get "$target" -o jsonpath='{.status.podIP}')
    kubectl -n "$space" delete "$target" --wait=false >/dev/null
    sleep 1
    endpoints | grep -qx "$address" && { echo "   the pod that ends still gets traffic"; return 1; }
  else
    pods worker | xargs kubectl -n "$space" delete --wait=false >/dev/null
  fi
  wait "$upload" || true
  status=$(cat "$work/slow.status")
  detail="$status after $((SECONDS - begun)) s $(cat "$work/slow.error")"
  unforward
  all_ready 120
  forward "svc/$name-gateway" 8000 || return 1
  curl -fsS -H "authorization: Bearer $(token)" "http://127.0.0.1:$local_port/api/files/live-slow-$1" | cmp - "$work/slow" || status=different
  unforward
  [ "$status" = 201 ]
}

budgets() {
  local role first second answer
  kubectl -n "$space" get pdb
  for role in gateway worker storage; do
    first=$(pods "$role" | sed -n 1p) second=$(pods "$role" | sed -n 2p)
    evict "$first" >/dev/null || return 1
    # Only one at a time, as long as the first is not back.
    answer=$(evict "$second" 2>&1) && { echo "   $role: the second eviction was granted"; return 1; }
    grep -q 'disruption budget' <<<"$answer" || { echo "   $answer"; return 1; }
    all_ready 120 || return 1
  done
  detail="first eviction granted, second refused, for gateway, worker and storage"
}

evict() {
  printf '{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"%s","namespace":"%s"}}' "${1#pod/}" "$space" |
    kubectl create --raw "/api/v1/namespaces/$space/pods/${1#pod/}/eviction" -f -
}

refuse_storage() {
  local answer
  answer=$(helm -n "$space" upgrade "$release" "$chart" "${options[@]}" --set storage.replicas=4 2>&1) && return 1
  detail=$(grep -o 'storage.replicas is .*' <<<"$answer")
}

trace() {
  local id found
  forward "svc/$name-gateway" 8000 || return 1
  head -c 300000 /dev/urandom >"$work/traced"
  id=$(curl -fsS -o /dev/null -D - -H "authorization: Bearer $(token)" -T "$work/traced" "http://127.0.0.1:$local_port/api/files/live-traced" | tr -d '\r' | sed -n 's/^x-cstore-trace-id: //Ip')
  unforward
  forward "svc/$name-jaeger" 16686 || return 1
  eventually 40 whole_trace "$id" || return 1
  found=$(curl -fsS "http://127.0.0.1:$local_port/api/traces/$id")
  detail="trace $id, $(grep -o '"spanID"' <<<"$found" | wc -l) spans of $(grep -o '"serviceName":"[^"]*"' <<<"$found" | sort -u | tr '\n' ' ')"
  unforward
}

whole_trace() {
  local found role
  found=$(curl -fsS "http://127.0.0.1:$local_port/api/traces/$1") || return 1
  for role in gateway master worker storage; do
    grep -q "\"serviceName\":\"cstore-$role\"" <<<"$found" || return 1
  done
}
