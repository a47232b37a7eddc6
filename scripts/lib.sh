# shellcheck shell=bash
# What every script here needs: messages, Debian packages, a Rust toolchain, the build, the Python package.
# Sourced, never run; it changes nothing by being sourced.

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Debian's own Python: the one that python3-scapy is installed for, whatever else comes first in PATH.
export PYTHON=/usr/bin/python3

# --- messages -------------------------------------------------------------------------------------

say() { printf '%s\n' "$*"; }
heading() { printf '\n== %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

is_root() { [[ $(id -u) -eq 0 ]]; }

# --- clean-up -------------------------------------------------------------------------------------

# cleanup_with FUNCTION: runs FUNCTION once when the script ends, also by an error or a signal. Its
# exit status stays the one the script ended with.
cleanup_with() {
    # shellcheck disable=SC2064 # the name of the function is fixed now
    trap "cleanup_now $1" EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

cleanup_now() {
    local status=$?
    trap - EXIT
    trap '' HUP INT TERM # a second Ctrl-C must not leave half of the namespaces behind
    set +e
    "$1"
    exit "$status"
}

# --- Debian packages ------------------------------------------------------------------------------

# install_packages PACKAGE…: installs those that are missing. Without root it only says so.
install_packages() {
    local missing=() package
    for package in "$@"; do
        package_installed "$package" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || {
        warn "this is no Debian; make sure that these are installed: ${missing[*]}"
        return 0
    }
    is_root || {
        warn "not root, so not installing: ${missing[*]} (sudo apt-get install ${missing[*]})"
        return 0
    }
    say "installing: ${missing[*]}"
    apt_install "${missing[@]}" || die "apt-get could not install: ${missing[*]}"
}

package_installed() {
    [[ $(dpkg-query -W -f='${Status}' "$1" 2>/dev/null) == "install ok installed" ]]
}

# What scripts/kubernetes needs to build and to run a cluster: the rest is fetched for the cluster alone; libseccomp2 is
# what runc is linked with.
kubernetes_packages() {
    install_packages python3 dpkg-dev ca-certificates debian-archive-keyring libseccomp2 openssl iproute2 iputils-ping \
        util-linux mount ethtool
}

# An image without package lists, or with stale ones, needs an update first; others are spared it.
apt_install() {
    if compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; then
        apt_get install "$@" && return 0
    fi
    apt_get update && apt_get install "$@"
}

apt_get() {
    local verb=$1 log
    shift
    log=$(mktemp)
    if DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        -o DPkg::Lock::Timeout=120 "$verb" "$@" >"$log" 2>&1; then
        rm -f "$log"
        return 0
    fi
    cat "$log" >&2
    rm -f "$log"
    return 1
}

# --- Python ---------------------------------------------------------------------------------------

# package MODULE ARGUMENT…: becomes a module of tools/underpass_lab, which needs no installation. -P, so that files of
# the same names in the current directory are not taken for it.
package() {
    export PYTHONPATH=$REPO/tools
    exec "$PYTHON" -B -P -m "underpass_lab.$1" "${@:2}"
}

# --- Rust -----------------------------------------------------------------------------------------

# Makes `cargo` of the version that Cargo.toml asks for available, or stops with advice.
ensure_rust() {
    local wanted
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$REPO/Cargo.toml")
    install_packages gcc libc6-dev
    [[ -d ${CARGO_HOME:-$HOME/.cargo}/bin ]] && PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    rust_at_least "$wanted" && return 0
    command -v rustup >/dev/null || get_rustup || true
    if command -v rustup >/dev/null; then
        say "installing the stable Rust toolchain with rustup"
        rustup toolchain install stable --profile minimal --component clippy,rustfmt &&
            export RUSTUP_TOOLCHAIN=stable
    fi
    rust_at_least "$wanted" ||
        die "cargo $wanted or newer is needed and Debian's own is older: install it from https://rustup.rs, then run this again"
}

rust_at_least() {
    local have
    have=$(cd "$REPO" && cargo --version 2>/dev/null | cut -d' ' -f2) || return 1
    [[ -n $have && $(printf '%s\n%s\n' "$1" "$have" | sort -V | head -n 1) == "$1" ]]
}

# Debian 13 has rustup as a package. Before that, the project's own installer, checked against the
# checksum published beside it.
get_rustup() {
    if is_root && command -v apt-get >/dev/null; then
        apt_get update || return 1
        if [[ -n $(apt-cache search --names-only '^rustup$') ]]; then
            install_packages rustup
            return
        fi
    fi
    install_packages ca-certificates curl
    local machine dir url
    machine=$(uname -m)
    dir=$(mktemp -d)
    url=https://static.rust-lang.org/rustup/dist/$machine-unknown-linux-gnu/rustup-init
    say "fetching rustup from $url"
    if curl -fsSL --retry 3 -o "$dir/rustup-init" "$url" &&
        [[ $(curl -fsSL --retry 3 "$url.sha256" | cut -d' ' -f1) == "$(sha256sum "$dir/rustup-init" | cut -d' ' -f1)" ]] &&
        chmod +x "$dir/rustup-init" &&
        "$dir/rustup-init" -y --quiet --no-modify-path --default-toolchain none; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
        rm -rf "$dir"
        return 0
    fi
    rm -rf "$dir"
    return 1
}

# Sets DEV_TOOLS to the folder with the commands of tools/requirements-dev.txt, installed when that file has
# changed. Fails when they cannot be installed. Needs cargo and jq.
ensure_dev_tools() {
    local wanted=$REPO/tools/requirements-dev.txt venv
    venv=$(target_directory)/tools-venv || return 1
    export DEV_TOOLS=$venv/bin
    cmp -s "$wanted" "$venv/installed.txt" && return 0
    install_packages python3-venv
    say "installing what tools/requirements-dev.txt lists into $venv"
    rm -rf "$venv"
    "$PYTHON" -m venv "$venv" &&
        "$DEV_TOOLS/pip" install --quiet --disable-pip-version-check --requirement "$wanted" &&
        cp "$wanted" "$venv/installed.txt"
}

# build_underpass PROFILE: sets UNDERPASS_BIN to the daemon, built as `release`, or as `dev`, which takes half of the
# time. One named by UNDERPASS_BIN beforehand is used as it is.
build_underpass() {
    local profile=$1
    if [[ -n ${UNDERPASS_BIN:-} ]]; then
        [[ -x $UNDERPASS_BIN ]] || die "UNDERPASS_BIN=$UNDERPASS_BIN is not an executable file"
        UNDERPASS_BIN=$(realpath "$UNDERPASS_BIN")
        say "using $UNDERPASS_BIN"
    else
        ensure_rust
        say "cargo build --profile $profile"
        (cd "$REPO" && cargo build --quiet --locked --profile "$profile") || die "the build failed"
        # What cargo calls `dev` it puts into `debug`.
        UNDERPASS_BIN=$(target_directory)/${profile/#dev/debug}/underpass
    fi
    export UNDERPASS_BIN
}

target_directory() {
    (cd "$REPO" && cargo metadata --format-version 1 --no-deps --locked --offline) | jq -r .target_directory
}
