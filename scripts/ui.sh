#!/bin/sh
# Builds the workbench into ui/dist, which the binary embeds. Quick when its sources are as they
# were. Without node it says so and leaves the build as it is: the endpoint then has a plain page.
set -eu
cd "$(dirname "$0")/../ui"

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "ui: there is no node or npm, so the web page is not built ('make setup' installs them)" >&2
    exit 0
fi

# What the result is made from.
sources() {
    find src index.html package.json package-lock.json svelte.config.js tsconfig.json vite.config.ts \
        ../docs/reference/openapi.json -type f ! -name schema.d.ts -print | LC_ALL=C sort
}
sum=$(sources | while IFS= read -r file; do cat "$file"; done | cat - package-lock.json | cksum)
sum="$sum $(sources | cksum)"
if [ -f dist/index.html ] && [ "$(cat dist/.sources 2>/dev/null || true)" = "$sum" ]; then
    exit 0
fi

if ! cmp -s package-lock.json node_modules/.lock.stamp; then
    echo "ui: fetching the packages of the lock file" >&2
    # As the lock file says. `npm ci` would give up at optional parts for other systems that a
    # registry lacks. No script of a package is run.
    npm install --no-save --no-audit --no-fund --ignore-scripts --loglevel=error >&2
    cp package-lock.json node_modules/.lock.stamp
fi
echo "ui: building the workbench" >&2
npm run --silent build >&2
printf '%s' "$sum" >dist/.sources
