#!/usr/bin/env bash
# Sets this checkout up: virtual environment (unless one is active), packages, realm home. Safe to run again.
#   EXTRAS="training,guild,dev"   which extras to install (make play needs only "training")
#   TORCH_INDEX=<wheel source>    where to take another build of torch from (CUDA, ROCm)
#   REALM_HOME=<folder>           where this checkout's realm lives from now on (default: ~/realm)
#   DOCTOR=0                      leave the realm home alone: neither look at it nor note it for this checkout
#   SYSTEM=1                      also install the system packages that the tests use (needs root and apt-get)
set -euo pipefail
case "${REALM_HOME:-}" in
  "" | /* | "~"*) ;;
  *) export REALM_HOME="$PWD/$REALM_HOME" ;;  # relative to where this was called, not to the checkout
esac
cd "$(dirname "$0")/.."
EXTRAS="${EXTRAS:-training,guild,dev}"

if [ -n "${VIRTUAL_ENV:-}" ]; then
  PY="$VIRTUAL_ENV/bin/python"
else
  # Without ensurepip `venv` fails half way and leaves a Python that can install nothing: made anew.
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
      if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        "$candidate" -m venv .venv && break
        rm -rf .venv
      fi
    done
    [ -x .venv/bin/python ] || { echo "error: no Python >= 3.11 with venv found; install one (on Debian and Ubuntu also its package python3-venv) or set PYTHON=<its path>" >&2; exit 1; }
  fi
  PY="$PWD/.venv/bin/python"
fi

# Installing is skipped when nothing that decides it has changed since the last time, and no extra is new. The stamp's
# first line is what decides, the second the extras, the third the source of torch (asked about only when one is named).
STAMP="$("$PY" -c 'import sys; print(sys.prefix)')/.realm-installed"
WANT="$(cat pyproject.toml constraints.txt | cksum) $PWD"
installed() {
  [ -f "$STAMP" ] || return 1
  local base have index extra
  { read -r base; read -r have; read -r index; } < "$STAMP" || return 1
  [ "$base" = "$WANT" ] || return 1
  [ -z "${TORCH_INDEX:-}" ] || [ "$index" = "$TORCH_INDEX" ] || return 1
  for extra in ${EXTRAS//,/ }; do
    case ",$have," in *",$extra,"*) ;; *) return 1 ;; esac
  done
}
if ! installed; then
  # torch first and exact, so that no other package pulls another build.
  TORCH="$(grep '^torch==' constraints.txt)"
  echo "Installing $TORCH and the packages of [$EXTRAS]; the first time takes some minutes ..."
  if [ -n "${TORCH_INDEX:-}" ]; then
    "$PY" -m pip install --disable-pip-version-check -q --index-url "$TORCH_INDEX" "$TORCH"
  else
    "$PY" -m pip install --disable-pip-version-check -q "$TORCH"
  fi
  "$PY" -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[$EXTRAS]"
  printf '%s\n' "$WANT" "$EXTRAS" "${TORCH_INDEX:-}" > "$STAMP"
fi

if [ "${SYSTEM:-0}" = 1 ]; then
  missing=()
  command -v chromium >/dev/null || missing+=(chromium)
  command -v ca65 >/dev/null || missing+=(cc65)
  if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
      echo "note: not installed (needs root and apt-get): ${missing[*]}; tests that need them are skipped and named" >&2
    fi
  fi
fi

if [ "${DOCTOR:-1}" = 1 ]; then
  # The home this checkout plays in, unless REALM_HOME says otherwise at run time.
  if [ -n "${REALM_HOME:-}" ]; then
    "$PY" -c 'from realm.settings import realm_home; print(realm_home())' > .realm-home
  fi
  # What it finds is for a person to read; only a failed installation above ends this script with an error.
  "$PY" -m training doctor --fix || true
fi
