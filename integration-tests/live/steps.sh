# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with helm-live
# Steps: what is done, how long it took, and what came out.

failed=0
results=()
detail=

# step NAME COMMAND...: runs a command; it may set `detail`. A step that fails is told, and the run goes on.
step() {
  local title=$1 begun ended status=0
  shift
  detail=
  begun=$(date +%s%N)
  printf '== %s\n' "$title"
  # Without a subshell, so that it can leave things behind; -e does not count in it, so it says itself when it fails.
  "$@" || status=$?
  ended=$((($(date +%s%N) - begun) / 1000000))
  if [ "$status" -eq 0 ]; then
    status=ok
  else
    status=FAILED
    failed=$((failed + 1))
    explain
  fi
  printf '   %s in %d.%03d s%s\n' "$status" $((ended / 1000)) $((ended % 1000)) "${detail:+: $detail}"
  results+=("$(printf '%-52s %-6s %8d.%03d s  %s' "$title" "$status" $((ended / 1000)) $((ended % 1000)) "$detail")")
}

table() {
  echo
  printf '%s\n' "${results[@]}"
  echo "helm-live: ${#results[@]} steps, $failed failed"
}

# What a person would look at first.
explain() {
  kubectl -n "$space" get pods -o wide 2>/dev/null | cut -c1-120 || true
  kubectl -n "$space" get events --sort-by=.lastTimestamp 2>/dev/null | tail -n 8 | cut -c1-160 || true
}

# eventually SECONDS COMMAND...: until it succeeds
eventually() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || { echo "   not in time: $*" >&2; return 1; }
    sleep 0.5
  done
}

leave() {
  local job
  for job in $(jobs -p); do kill "$job" 2>/dev/null || true; done
  helm -n "$space" uninstall "$release" --wait --timeout 120s >/dev/null 2>&1 || true
  kubectl delete namespace "$space" --wait --timeout=120s >/dev/null 2>&1 || true
  rm -rf "$work"
}
