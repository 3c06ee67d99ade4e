#!/bin/bash
# A sweep on all hosts of a TPU VM slice, e.g. a v5e-256 of 64 hosts. Run it on every worker,
#
#     gcloud compute tpus tpu-vm ssh SLICE --zone ZONE --worker all --command "bash sweep_tpu_vm.sh"
#
# or give it to a queued resource as its startup script, so that it goes on by itself on a slice that comes back. The
# hosts find each other, share the images out among them and write to one bucket.

suite=${SUITE:-gs://BUCKET/suite.toml}
bucket=${BUCKET:-gs://BUCKET}

here=$(mktemp -d)
case $suite in
gs://*) gcloud storage cp "$suite" "$here/suite.toml" || exit ;;
*) cp "$suite" "$here/suite.toml" || exit ;;
esac

# 75: one of the hosts was asked to stop, and all have. The others start again, and wait for it to come back.
while true; do
    clipjax sweep "$here/suite.toml" --distributed \
        --results "$bucket/results" --store "$bucket/store" --pixel-store "$here/pixels"
    code=$?
    [ "$code" -eq 75 ] || exit "$code"
    sleep 10
done
