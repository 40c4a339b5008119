# Sourced by demo.sh and test.sh: what a fresh Debian or Ubuntu machine with Rust lacks.

# install_packages WHY PACKAGE...: installs packages.
install_packages() {
  local why=$1
  shift
  if ! command -v apt-get >/dev/null; then
    echo "error: $why and there is no apt-get; install $* by hand" >&2
    exit 1
  fi
  echo "installing $* ($why)" >&2
  local sudo=
  if [ "$(id -u)" != 0 ]; then sudo=sudo; fi
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends "$@"
}

# need COMMAND PACKAGE...: installs packages where the command is missing.
need() {
  local command=$1
  shift
  if command -v "$command" >/dev/null; then return; fi
  install_packages "\`$command\` is missing" "$@"
}

if ! command -v cargo >/dev/null; then
  echo "error: Rust is missing; install it from https://rustup.rs" >&2
  exit 1
fi
need cc build-essential
