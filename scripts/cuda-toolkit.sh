#!/usr/bin/env bash
# Gets a CUDA compiler from Python wheels, for building GPU code on a machine that has no CUDA toolkit. No GPU and no driver are needed.
#
#   scripts/cuda-toolkit.sh FOLDER      puts it there, about 300 MB
#   source FOLDER/env                   lets `cargo build` find it (CUDA_HOME)
#
# PYTHON names the interpreter whose pip is used (python3), CUDA_VERSION the toolkit's version (13.0.3). A C++ compiler must be installed.
set -euo pipefail

folder=${1:?usage: scripts/cuda-toolkit.sh FOLDER}
python=${PYTHON:-python3}
version=${CUDA_VERSION:-13.0.3}

command -v c++ >/dev/null || { echo "nvcc needs a C++ compiler; install one (g++)" >&2; exit 1; }
"$python" -m pip --version >/dev/null 2>&1 || { echo "$python has no pip; name a Python that has one in PYTHON" >&2; exit 1; }

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
"$python" -m pip install --quiet --no-cache-dir --upgrade --target "$folder/wheels" "cuda-toolkit[nvcc,cccl]==$version"

# The wheels lie in one folder that is named after the major version, with the layout of a toolkit.
home=$folder/wheels/nvidia/cu${version%%.*}
[ -x "$home/bin/nvcc" ] || { echo "the wheels of CUDA $version have no bin/nvcc in $home; try another CUDA_VERSION" >&2; exit 1; }
printf 'export CUDA_HOME=%q\nexport PATH="$CUDA_HOME/bin:$PATH"\n' "$home" >"$folder/env"

# What it is for: one kernel for the oldest GPU.
printf 'extern "C" __global__ void probe(float *x) { x[threadIdx.x] += 1.0f; }\n' >"$folder/probe.cu"
"$home/bin/nvcc" -arch=sm_80 -fatbin -o "$folder/probe.fatbin" "$folder/probe.cu"
rm "$folder/probe.cu" "$folder/probe.fatbin"
"$home/bin/nvcc" --version | tail -1
echo "source $folder/env"
