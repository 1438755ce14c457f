#!/usr/bin/env bash
# Sets this checkout up: virtual environment (unless one is active), packages, realm home. Safe to run again.
#   EXTRAS="training,guild,dev"   which extras to install (make play needs only "training")
#   TORCH_INDEX=<wheel source>    where to take another build of torch from (CUDA, ROCm)
#   REALM_HOME=<folder>           where this checkout's realm lives (default: ~/realm)
#   DOCTOR=0                      do not look at (and set up) the realm home
#   SYSTEM=1                      also install the system packages that the tests use (needs root and apt-get)
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRAS="${EXTRAS:-training,guild,dev}"

if [ -n "${VIRTUAL_ENV:-}" ]; then
  PY="$VIRTUAL_ENV/bin/python"
else
  if [ ! -x .venv/bin/python ]; then
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
      if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        "$candidate" -m venv .venv
        break
      fi
    done
    [ -x .venv/bin/python ] || { echo "error: no Python >= 3.11 with venv found; install one or set PYTHON=<its path>" >&2; exit 1; }
  fi
  PY="$PWD/.venv/bin/python"
fi

# Installing is skipped when nothing that decides it has changed since the last time.
STAMP="$("$PY" -c 'import sys; print(sys.prefix)')/.realm-installed"
WANT="$(cat pyproject.toml constraints.txt | cksum) $PWD $EXTRAS ${TORCH_INDEX:-}"
if [ ! -f "$STAMP" ] || [ "$(cat "$STAMP")" != "$WANT" ]; then
  # torch first and exact, so that no other package pulls another build.
  TORCH="$(grep '^torch==' constraints.txt)"
  echo "Installing $TORCH and the packages of [$EXTRAS]; the first time takes some minutes ..."
  if [ -n "${TORCH_INDEX:-}" ]; then
    "$PY" -m pip install --disable-pip-version-check -q --index-url "$TORCH_INDEX" "$TORCH"
  else
    "$PY" -m pip install --disable-pip-version-check -q "$TORCH"
  fi
  "$PY" -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[$EXTRAS]"
  printf '%s' "$WANT" > "$STAMP"
fi

if [ "${SYSTEM:-0}" = 1 ]; then
  missing=()
  command -v chromium >/dev/null || missing+=(chromium)
  if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
      echo "note: not installed (needs root and apt-get): ${missing[*]}; tests that need them are skipped and named" >&2
    fi
  fi
fi

# The home this checkout plays in, unless REALM_HOME says otherwise at run time.
if [ -n "${REALM_HOME:-}" ]; then
  printf '%s\n' "$REALM_HOME" > .realm-home
fi
if [ "${DOCTOR:-1}" = 1 ]; then
  # What it finds is for a person to read; only a failed installation above ends this script with an error.
  "$PY" -m training doctor --fix || true
fi
