#!/bin/sh
# Installs what the build needs and this machine lacks: a C++ compiler, cmake and
# libclang for llama.cpp and its bindings, and what the SDK suites need of Python
# and Node. Quick when there is nothing to do. Everything is a Debian package.
set -eu

packages=""
need() { packages="$packages $1"; }

have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    for file in /usr/lib/llvm-*/lib/libclang.so* /usr/lib/*/libclang.so* \
        /usr/lib/*/libclang-[0-9]*.so* /usr/lib64/libclang.so* /usr/lib64/llvm*/lib*/libclang.so*; do
        [ -e "$file" ] && return 0
    done
    return 1
}

command -v cmake >/dev/null || need cmake
command -v c++ >/dev/null || need g++
command -v make >/dev/null || need make
command -v pkg-config >/dev/null || need pkg-config
have_libclang || need libclang-dev
if command -v python3 >/dev/null; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
    python3 -m pip --version >/dev/null 2>&1 || need python3-pip
else
    need python3
    need python3-venv
    need python3-pip
fi
if command -v node >/dev/null; then
    command -v npm >/dev/null || need npm
else
    need nodejs
    need npm
fi

if ! command -v cargo >/dev/null; then
    echo "setup: cargo is missing; install Rust with rustup (https://rustup.rs), then run this again" >&2
    exit 1
fi
[ -z "$packages" ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "setup: missing, and no apt-get here to install them:$packages" >&2
    echo "setup: install the counterparts of these Debian packages, then run this again" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "setup: installing needs root and there is no sudo; as root run: apt-get install$packages" >&2
        exit 1
    fi
    as_root="sudo"
fi
echo "setup: installing with apt-get:$packages" >&2
$as_root apt-get update -q
# The list is meant to be split into words.
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages
