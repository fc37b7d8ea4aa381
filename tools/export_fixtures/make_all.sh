#!/bin/sh
# Make every fixture anew: make_all.sh WORK [EXPORTS]
#
# WORK gets two virtual environments (1.5 GB), which are used again the next time. EXPORTS gets the
# fixtures; by default the folder that the tests read.
# PYTHON: a Python 3.11. TORCH_OPTIONS: options of pip for torch; without an index of CPU builds at
# hand, say "--index-url https://download.pytorch.org/whl/cpu".
set -eu

work=${1:?usage: make_all.sh WORK [EXPORTS]}
here=$(cd "$(dirname "$0")" && pwd)
exports=${2:-$here/../../tests/graph/exports}
python=${PYTHON:-python3.11}

mkdir -p "$work" "$exports"
work=$(cd "$work" && pwd)
new=$work/exports
scratch=$work/scratch
rm -rf "$new" "$scratch"
mkdir "$new" "$scratch"

for kind in genai optimum; do
    if [ ! -e "$work/venv-$kind/complete" ]; then
        "$python" -m venv "$work/venv-$kind"
        pip="$work/venv-$kind/bin/python -m pip install --quiet"
        # First and apart, so that nothing else chooses a build of torch.
        $pip ${TORCH_OPTIONS:-} torch==2.13.0
        $pip --requirement "$here/requirements-$kind.txt"
        touch "$work/venv-$kind/complete"
    fi
done
genai=$work/venv-genai/bin/python
optimum=$work/venv-optimum/bin/python

"$genai" "$here/make_checkpoint.py" "$new/checkpoint"
"$genai" "$here/make_checkpoint.py" "$scratch/untied" --untied
"$genai" "$here/make_genai.py" "$new/checkpoint" "$scratch/untied" "$new"
"$optimum" "$here/make_optimum.py" "$new/checkpoint" "$new" "$scratch"
"$genai" "$here/make_quantized.py" "$new" "$scratch"
"$genai" "$here/verify.py" "$new" "$scratch/untied"

for folder in "$new"/*/; do
    name=$(basename "$folder")
    rm -rf "${exports:?}/$name"
    cp -R "$new/$name" "$exports/$name"
done
cp "$new/manifest.json" "$exports/manifest.json"
