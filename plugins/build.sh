#!/usr/bin/env bash
# Builds the handlers as components and puts each, with its settings file, into a folder:
#
#   plugins/build.sh shipped    what ships with TaskForge and `taskforge dev` loads:
#                               $CARGO_TARGET_DIR/plugins/NAME.wasm, NAME.toml
#   plugins/build.sh            besides, what only tests need, in $CARGO_TARGET_DIR/plugins-test:
#                               the attacks (`hostile`) and components of other shapes (`shapes`)
#
# A file is replaced only when its content changed, and by a rename, so that a server that watches
# the folder never reads half a file.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target_dir=${CARGO_TARGET_DIR:-target}
triple=wasm32-wasip2

fail() {
    echo "plugins/build.sh: $*" >&2
    exit 1
}

command -v cargo >/dev/null || fail "cargo is missing: install Rust from https://rustup.rs"
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$triple" ]; then
    command -v rustup >/dev/null ||
        fail "Rust's standard library for $triple is missing, and so is rustup, which would add it"
    echo "plugins/build.sh: adding the target $triple" >&2
    rustup target add "$triple" ||
        fail "the target $triple is missing: run 'rustup target add $triple' with a network connection"
fi

# install FROM TO: copies what changed.
install() {
    [ -f "$1" ] || fail "$1 was not built"
    cmp -s "$1" "$2" && return
    cp "$1" "$2.new"
    mv "$2.new" "$2"
    echo "  $2 ($(($(wc -c <"$2") / 1024)) KiB)"
}

packages=(-p fibonacci -p scraper-plugin -p email -p sms)
case "${1-}" in
shipped) ;;
'') packages+=(-p hostile -p shapes) ;;
*) fail "an argument that is not 'shipped': $1" ;;
esac
cargo build --locked --profile plugin --target "$triple" "${packages[@]}"

built=$target_dir/$triple/plugin
mkdir -p "$target_dir/plugins"
for pair in fibonacci:fibonacci scraper_plugin:scraper email:email sms:sms; do
    name=${pair#*:}
    install "$built/${pair%:*}.wasm" "$target_dir/plugins/$name.wasm"
    install "plugins/$name/$name.toml" "$target_dir/plugins/$name.toml"
done

[ "${1-}" != shipped ] || exit 0
mkdir -p "$target_dir/plugins-test"
install plugins/hostile/hostile.toml "$target_dir/plugins-test/hostile.toml"
for pair in hostile:hostile command:command keeper:keeper web:web shapes:careless; do
    install "$built/${pair%:*}.wasm" "$target_dir/plugins-test/${pair#*:}.wasm"
done
