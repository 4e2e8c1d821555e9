#!/usr/bin/env bash
# The figures of docs/detectors.md again, but for those of the weights that ship, which their cards tell how to make.
#
#   docs/recipes/compare_detectors.sh DATA STEP...
#
# DATA is a folder with pollen73s/ (train/, val/, manifest.csv), rice_fields/, peat_field/ and bccd/. Everything is written
# into the folder that it is called from, and what is there already is not made again: broken off, it goes on.
#
# Steps: scenes, comparison, rtdetr, rice, parts, tried, cells, cells-rtdetr, score.
# ON=cuda:0,cuda:1 names the GPUs, EACH=4 the trainings at a time on each; SCENES, EPOCHS and CELLS_EPOCHS make it smaller.
set -euo pipefail
DATA=$(realpath "$1"); shift
HERE=$(dirname "$(realpath "$0")")
ON=${ON:-cuda:0} EACH=${EACH:-3} SCENES=${SCENES:-8000} EPOCHS=${EPOCHS:-10} CELLS_EPOCHS=${CELLS_EPOCHS:-150}
WORKERS=${WORKERS:-$(nproc)}

for file in pollen73s/manifest.csv rice_fields/labels peat_field bccd/ImageSets; do
  [ -e "$DATA/$file" ] || { echo "$DATA/$file: expected it, it is not there" >&2; exit 2; }
done

of() { palyno compose "$DATA/pollen73s/train" --test-reference "$DATA/pollen73s/val" --fields "$DATA/rice_fields" \
  --debris-fields "$DATA/peat_field" --field-splits "$HERE/rice_fields_split.csv" --workers "$WORKERS" "$@"; }

scenes() {
  [ -e scenes/data.yaml ] || of --labelled-fields "$DATA/rice_fields" --out scenes --train-scenes "$SCENES" \
    --val-scenes $((SCENES / 32)) --test-scenes $((SCENES / 20)) --tile-repeats 4
  [ -e other/data.yaml ] || of --out other --train-scenes 0 --val-scenes 0 --test-scenes $((SCENES / 20)) --microscope other
  [ -e rice/data.yaml ] || {  # Whole fields, in the splits that the tiles of the scenes are in.
    mkdir -p rice_parts/splits
    cp -r "$DATA/rice_fields/images" "$DATA/rice_fields/labels" rice_parts
    echo Oryza > rice_parts/classes.txt
    for split in train val test; do
      awk -F, -v split=$split '$2 == split { sub(/\.jpg$/, "", $1); print $1 }' "$HERE/rice_fields_split.csv" \
        > rice_parts/splits/$split.txt
    done
    palyno convert rice_parts rice --from yolo --to yolo --splits rice_parts/splits --pictures rice_parts/images
  }
  [ -e bccd/data.yaml ] || palyno convert "$DATA/bccd/Annotations" bccd --from voc --to yolo \
    --splits "$DATA/bccd/ImageSets/Main" --pictures "$DATA/bccd/JPEGImages"
}

COMPOSED=(--set "validation=scenes/data.yaml:val:scene_*" --set "composed=scenes/data.yaml:test:scene_*"
  --set "other=other/data.yaml:test:scene_*" --set rice-validation=rice/data.yaml:val --set rice=rice/data.yaml:test)
SMALL=(--epochs "$EPOCHS" --batch 32 --lr 0.0015 --weight-decay 0.05 --naming-threshold 0.8 --workers 2 --validate-every 100)
CELLS=(--set bccd-val=bccd/data.yaml:val --set bccd-test=bccd/data.yaml:test)
CACHE=(--cache gpu); [ "${ON#cuda}" != "$ON" ] || CACHE=()

train() {  # train RUNS DATA EACH MODELS... -- SETS... -- OPTIONS...
  local runs=$1 data=$2 each=$3 models=() sets=(); shift 3
  while [ "$1" != -- ]; do models+=(--model "$1"); shift; done; shift
  while [ "$1" != -- ]; do sets+=("$1"); shift; done; shift
  palyno bench detectors train "$data" --runs "$runs" --on "$ON" --each "$each" "${models[@]}" "${sets[@]}" -- "$@"
}

comparison() { train runs scenes/data.yaml "$EACH" hieraedge-n:3 yolo11n:3 hieraedge-n-reference:3 yolov8n:3 yolo12n yolo26n \
  biformer-nano-yolo -- "${COMPOSED[@]}" -- "${SMALL[@]}" "${CACHE[@]}"; }
rtdetr() { train runs scenes/data.yaml 1 rtdetr-l -- "${COMPOSED[@]}" -- --hours "${RTDETR_HOURS:-0.35}" --batch 32 --lr 0.0003 \
  --weight-decay 0.05 --naming-threshold 0.8 --validate-every 2 ${CACHE:+--cache host}; }
parts() { train parts scenes/data.yaml "$EACH" edges-none:3 edges-scharr:3 edges-log edges-learned gate-channel gate-published \
  kernel-7 kernel-13 kernel-21 without-sef without-edges without-spdconv without-cspokm turned-45 light-2 hieraedge-n-plain-loss \
  yolo11n-named:3 -- "${COMPOSED[@]}" -- "${SMALL[@]}" "${CACHE[@]}"; }
cells() { train cells bccd/data.yaml "$EACH" hieraedge-n:3 yolo11n:3 yolo12n:3 yolo26n:3 yolov8n hieraedge-n-reference \
  biformer-nano-yolo hieraedge-n-quarter-loss:3 hieraedge-n-whole-loss:3 -- "${CELLS[@]}" -- \
  --epochs "$CELLS_EPOCHS" --batch 16 --lr 0.0015 --workers 2 --validate-every 25 "${CACHE[@]}"; }
cells-rtdetr() { train cells bccd/data.yaml 1 rtdetr-l -- "${CELLS[@]}" -- --epochs "$CELLS_EPOCHS" --batch 16 --lr 0.0003 \
  --workers 2 --validate-every 25 "${CACHE[@]}"; }

for step in "$@"; do
  case $step in
    scenes | comparison | rtdetr | parts | cells | cells-rtdetr) "$step" ;;
    *) echo "$step: expected scenes, comparison, rtdetr, parts, cells or cells-rtdetr" >&2; exit 2 ;;
  esac
done
