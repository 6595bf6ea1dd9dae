#!/usr/bin/env bash
# SuperPoint from nothing to weights, five commands one after the other:
#   training/superpoint.sh PHOTOGRAPHS OUT [option of every training, such as --threads 1]
# The same command goes on where it stopped. As published it needs a GPU and days; smaller runs:
#   CORNER_STEPS=3000 LABEL_STEPS=500 JOINT_STEPS=1000 BATCH=8 VIEWS=20 training/superpoint.sh …
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0"
    exit 2
fi
photographs=$1 out=$2
shift 2
corner_steps=${CORNER_STEPS:-50000} # MagicPoint on drawings
label_steps=${LABEL_STEPS:-18000}   # MagicPoint on photographs
joint_steps=${JOINT_STEPS:-60000}   # SuperPoint
batch=${BATCH:-32}
views=${VIEWS:-100} # of a photograph, to label it
precision=${LABEL_PRECISION:-float32}
kpfeat=${KPFEAT:-kpfeat}

train() {
    $kpfeat train "$1" --out "$out/$2" --batch-size "$batch" "${@:3}"
}

train magicpoint corners --set workers=-1 --steps "$corner_steps" "${@}"
$kpfeat adapt "$photographs" --out "$out/labels1" --model magicpoint \
    --weights "$out/corners/magicpoint.safetensors" --device auto \
    --set num="$views" --set precision="$precision"
train magicpoint photographs --data "$photographs" --set labels="$out/labels1" \
    --start "$out/corners/magicpoint.safetensors" --steps "$label_steps" "${@}"
$kpfeat adapt "$photographs" --out "$out/labels2" --model magicpoint \
    --weights "$out/photographs/magicpoint.safetensors" --device auto \
    --set num="$views" --set precision="$precision"
train superpoint joint --data "$photographs" --set labels="$out/labels2" \
    --start "$out/photographs/magicpoint.safetensors" --steps "$joint_steps" "${@}"
