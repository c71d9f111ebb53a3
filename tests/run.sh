#!/usr/bin/env bash
# Everything that has to hold: format, lints, tests, doc tests, instruction counts, documentation.
# Installs what the tests need beside Rust: redis-server, a Python with PyJWT, Authlib and grpcio, a Node with express-session and jose,
# valgrind, faketime, curl, root certificates.
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        return 1
    fi
}

# What is missing is installed from Debian's packages; a machine without apt is told what to install.
missing=()
command -v redis-server >/dev/null && command -v redis-cli >/dev/null || missing+=(redis-server)
command -v python3 >/dev/null && python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3 python3-venv)
command -v cc >/dev/null || missing+=(build-essential)
command -v prlimit >/dev/null || missing+=(util-linux)
command -v valgrind >/dev/null || missing+=(valgrind)
command -v faketime >/dev/null || missing+=(faketime)
command -v curl >/dev/null || missing+=(curl)
command -v node >/dev/null && command -v npm >/dev/null || missing+=(nodejs npm)
[ -f /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    if ! command -v apt-get >/dev/null || ! as_root apt-get update -qq \
        || ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; then
        echo "install these and run this again: ${missing[*]}" >&2
        exit 1
    fi
fi

# Tokens signed by another library than the gateway's own, and a gRPC client and service.
python="target/test-python"
if ! "$python/bin/python3" -c 'import jwt, cryptography, grpc, authlib' 2>/dev/null; then
    python3 -m venv "$python"
    "$python/bin/python3" -m pip install --quiet --disable-pip-version-check 'PyJWT[crypto]>=2.10,<3' 'grpcio>=1.60,<2' 'Authlib>=1.6,<2'
fi

# Sessions that another library writes, and one that verifies our tokens.
if [ ! -d target/test-node/node_modules/connect-redis ] || [ ! -d target/test-node/node_modules/jose ]; then
    npm install --prefix target/test-node --no-audit --no-fund --silent express@4 express-session@1 connect-redis@7 redis@4 jose@5
fi

step() {
    echo
    echo "== $*"
    "$@"
}

export RUSTFLAGS="${RUSTFLAGS:--D warnings}"
step cargo fmt --check
step cargo clippy --locked --all-targets -- -D warnings
step cargo test --locked
step benches/instructions
# What takes longer is run by hand; that it starts at all is seen here.
for tool in benches/peers/run benches/operations/run deploy/build; do
    step "$tool" --help >/dev/null
done
step env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
echo
echo "all of it holds"
