#!/bin/sh
# Stands for a pipeline: says what it does, takes a few seconds, and hands a value back.
set -eu
seconds=$(( $(printf '%s' "$STUDYGOV_EXPERIMENT_LABEL" | cksum | cut -d' ' -f1) % 5 + 2 ))
for step in $(seq "$seconds"); do
  echo "step $step of $seconds for $STUDYGOV_EXPERIMENT_LABEL"
  sleep 1
done
echo "__VALUES__ = {\"seconds\": $seconds}"
