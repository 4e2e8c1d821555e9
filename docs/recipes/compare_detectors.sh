#!/usr/bin/env bash
# Makes the figures of docs/detectors.md again. How the weights that ship were trained their cards tell.
#
#   docs/recipes/compare_detectors.sh DATA STEP...
#
# DATA is a folder with pollen73s/ (train/, val/ and manifest.csv, which has the pictures' original sizes), rice_fields/,
# peat_field/ and bccd/. All is written into the folder that this is called from; broken off and called again, it goes on.
#
# Steps: scenes, shipped, comparison, rtdetr, parts, tried, cells, cells-rtdetr, score. ON=cuda:0,cuda:1 names the GPUs, EACH=4 the
# trainings at a time on each; WITHIN: no training begins after so many seconds of a step. SCENES, EPOCHS and CELLS_EPOCHS
# make all of it smaller, RTDETR_HOURS shorter.
set -euo pipefail

DATA=$(realpath "$1")
shift
HERE=$(dirname "$(realpath "$0")")
ON=${ON:-cuda:0} EACH=${EACH:-3} WITHIN=${WITHIN:-} WORKERS=${WORKERS:-$(nproc)}
SCENES=${SCENES:-8000} EPOCHS=${EPOCHS:-10} CELLS_EPOCHS=${CELLS_EPOCHS:-150} RTDETR_HOURS=${RTDETR_HOURS:-0.35}
GPU=(--cache gpu) HOST=(--cache host)
[[ $ON == cuda* ]] || GPU=() HOST=()

for file in pollen73s/manifest.csv rice_fields/labels peat_field bccd/ImageSets; do
  [[ -e $DATA/$file ]] || { echo "$DATA/$file: expected it, it is not there" >&2; exit 2; }
done

compose() { # compose OUT OPTIONS...
  [[ -e $1/manifest.json ]] || palyno compose "$DATA/pollen73s/train" --test-reference "$DATA/pollen73s/val" \
    --fields "$DATA/rice_fields" --debris-fields "$DATA/peat_field" --field-splits "$HERE/rice_fields_split.csv" \
    --workers "$WORKERS" --out "$@"
}

composed() { # composed OUT SCENES OPTIONS...: to train on
  compose "$1" --labelled-fields "$DATA/rice_fields" --tile-repeats 4 --train-scenes "$2" --val-scenes $((SCENES / 32)) \
    --test-scenes $((SCENES / 20)) "${@:3}"
}

scenes() {
  composed scenes "$SCENES"
  compose other --train-scenes 0 --val-scenes 0 --test-scenes $((SCENES / 20)) --microscope other
  if [[ ! -e rice/data.yaml ]]; then # The whole fields, in the splits of their tiles.
    mkdir -p rice_parts/splits
    cp -r "$DATA/rice_fields/images" "$DATA/rice_fields/labels" rice_parts
    echo Oryza > rice_parts/classes.txt
    for split in train val test; do
      awk -F, -v named=$split '$2 == named { sub(/\.jpg$/, "", $1); print $1 }' "$HERE/rice_fields_split.csv" \
        > rice_parts/splits/$split.txt
    done
    palyno convert rice_parts rice --from yolo --to yolo --splits rice_parts/splits --pictures rice_parts/images
  fi
  for split in val test; do
    [[ -e rice/annotations/$split.json ]] || coco rice $split Oryza
  done
  [[ -e bccd/data.yaml ]] || palyno convert "$DATA/bccd/Annotations" bccd --from voc --to yolo \
    --splits "$DATA/bccd/ImageSets/Main" --pictures "$DATA/bccd/JPEGImages"
  for split in val test; do
    [[ -e bccd/annotations/$split.json ]] || coco bccd $split Platelets RBC WBC
  done
}

shipped() { # What the weights that ship find.
  local model set
  for model in hieraedge-n hieraedge-s biformer-nano-yolo; do
    for set in validation:scenes:val:scene_* composed:scenes:test:scene_* other:other:test:scene_* rice-validation:rice:val:* \
      rice:rice:test:*; do
      IFS=: read -r name data split only <<< "$set"
      [[ -e shipped/$model-s0/shipped-$name.json.gz ]] || palyno val "$data/data.yaml" --split "$split" --only "$only" \
        --model "$model" --device "${ON%%,*}" --draws 0 --json --save "shipped/$model-s0/shipped-$name.json.gz" > /dev/null
    done
  done
}

coco() { # coco SET SPLIT CLASSES...: the split's true boxes in one file
  mkdir -p "$1/annotations" "$1/parts/$2"
  cp -r "$1/images/$2" "$1/parts/$2/images"
  cp -r "$1/labels/$2" "$1/parts/$2/labels"
  printf '%s\n' "${@:3}" > "$1/parts/$2/classes.txt"
  palyno convert "$1/parts/$2" "$1/annotations/$2.json" --from yolo --to coco
}

train() { # train RUNS DATA EACH MODELS... -- OPTIONS...
  local runs=$1 data=$2 each=$3 models=() sets=() of
  shift 3
  while [[ $1 != -- ]]; do models+=(--model "$1"); shift; done
  if [[ $runs == cells ]]; then
    sets=(--set bccd-val=bccd/data.yaml:val --set bccd-test=bccd/data.yaml:test)
  else
    of=${runs#runs} of=${of:+$of-}
    sets=(--set "${of}validation=scenes/data.yaml:val:scene_*" --set "${of}composed=scenes/data.yaml:test:scene_*"
      --set "${of}other=other/data.yaml:test:scene_*" --set "${of}rice-validation=rice/data.yaml:val"
      --set "${of}rice=rice/data.yaml:test")
  fi
  palyno bench detectors train "$data/data.yaml" --runs "$runs" --on "$ON" --each "$each" ${WITHIN:+--start-within "$WITHIN"} \
    "${models[@]}" "${sets[@]}" "$@"
}

SMALL=(--batch 32 --lr 0.0015 --weight-decay 0.05 --naming-threshold 0.8 --workers 2 --validate-every 100 "${GPU[@]}")
CELLS=(--epochs "$CELLS_EPOCHS" --batch 16 --workers 2 --validate-every 25 "${GPU[@]}")

comparison() {
  train runs scenes "$EACH" hieraedge-n:3 yolo11n:3 hieraedge-n-reference:3 yolov8n:3 yolo12n yolo26n biformer-nano-yolo \
    yolo11n-named:3 -- --epochs "$EPOCHS" "${SMALL[@]}"
}

rtdetr() {
  train runs scenes 1 rtdetr-l -- --hours "$RTDETR_HOURS" --batch 32 --lr 0.0003 --weight-decay 0.05 --naming-threshold 0.8 \
    --validate-every 2 "${HOST[@]}"
}

known() { # known INTO MODELS...: copies there what the comparison has trained of it
  local into=$1 model run set
  for model in "${@:2}"; do
    for run in runs/"$model"-s?; do
      [[ -e $run/rice.json.gz && ! -e $into/${run#runs/}/recipe.json ]] || continue
      mkdir -p "$into/${run#runs/}"
      cp "$run"/*.safetensors "$run/recipe.json" "$into/${run#runs/}"
      for set in "$run"/*.json.gz; do cp "$set" "$into/${run#runs/}/$into-$(basename "$set")"; done
    done
  done
}

parts() { # After comparison.
  known parts hieraedge-n yolo11n yolo11n-named
  train parts scenes "$EACH" edges-none:3 edges-scharr:3 edges-log edges-learned gate-channel gate-published kernel-7 kernel-13 \
    kernel-21 without-sef without-edges without-spdconv without-cspokm neck-and-edges-as-published turned-45 light-2 \
    hieraedge-n-plain-loss -- --epochs "$EPOCHS" "${SMALL[@]}"
}

tried() { # What else may help: a teacher, other losses, heads, necks and sizes of input, harder scenes, more of them. After comparison.
  known tried hieraedge-n
  train tried scenes "$EACH" teacher-s multi-scale nwd-half hieraedge-n-one2one neck-as-published -- \
    --epochs "$EPOCHS" "${SMALL[@]}"
  train tried scenes "$EACH" hieraedge-rtdetr -- --epochs "$EPOCHS" "${SMALL[@]}" --lr 0.0003 # As for rtdetr-l.
  [[ -e found.json.gz ]] || palyno val scenes/data.yaml --split train --only 'scene_*' --draws 0 --save found.json.gz --json \
    --model runs/hieraedge-n-s0/hieraedge-n.safetensors --device "${ON%%,*}" > /dev/null
  composed harder "$SCENES" --hard-cases scenes found.json.gz
  train tried harder "$EACH" hard-cases -- --epochs "$EPOCHS" "${SMALL[@]}"
  composed more $((SCENES * 2)) # As many images in all.
  train tried more "$EACH" more-scenes -- --epochs $(((EPOCHS + 1) / 2)) "${SMALL[@]}"
}

cells() {
  train cells bccd "$EACH" hieraedge-n:3 yolo11n:3 yolo12n:3 yolo26n:3 yolov8n hieraedge-n-reference biformer-nano-yolo \
    hieraedge-n-quarter-loss:3 hieraedge-n-whole-loss:3 -- --lr 0.0015 "${CELLS[@]}"
}

cells-rtdetr() { train cells bccd 1 rtdetr-l -- --lr 0.0003 "${CELLS[@]}"; }

score() {
  local runs of to composed rice
  for runs in runs parts tried shipped; do
    [[ -d $runs ]] || continue
    of=${runs#runs} to=detectors${of:+_$of} of=${of:+$of-}
    composed=(--truth "${of}validation=scenes/annotations/val.json:scene_*"
      --truth "${of}composed=scenes/annotations/test.json:scene_*" --truth "${of}other=other/annotations/test.json:scene_*")
    rice=(--truth "${of}rice-validation=rice/annotations/val.json" --truth "${of}rice=rice/annotations/test.json")
    # Weights that ship at the usual threshold, as their users read them.
    [[ $runs == shipped ]] || composed+=(--choose "${of}validation")
    palyno bench detectors score $runs "${composed[@]}" --out "$to.json" --overwrite
    palyno bench detectors score $runs "${rice[@]}" --choose "${of}rice-validation" --out "${to}_rice.json" --overwrite
  done
  [[ ! -d cells ]] || palyno bench detectors score cells --truth bccd-val=bccd/annotations/val.json \
    --truth bccd-test=bccd/annotations/test.json --choose bccd-val --out detectors_bccd.json --overwrite
}

for step in "$@"; do
  case $step in
    scenes | shipped | comparison | rtdetr | parts | tried | cells | cells-rtdetr | score) "$step" ;;
    *) echo "$step: expected scenes, shipped, comparison, rtdetr, parts, tried, cells, cells-rtdetr or score" >&2; exit 2 ;;
  esac
done
