# Sourced by test.sh after setup.sh: what the tests of the GPU kernels need on a machine without a GPU. Nothing here is a choice of a
# test to skip: what cannot be had ends the run with a message.

# A Vulkan driver. Where the machine has none, Mesa's software driver.
vulkan_driver() {
  # Without a display, Mesa's layer that sorts devices by what it shows finds nothing, and says so in every test's output.
  if [ -z "${XDG_RUNTIME_DIR:-}" ]; then export NODEVICE_SELECT=${NODEVICE_SELECT:-1}; fi
  if [ -n "${VK_DRIVER_FILES:-}" ] || [ -n "${VK_ICD_FILENAMES:-}" ]; then return; fi
  local folder
  for folder in /usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d; do
    if compgen -G "$folder/*.json" >/dev/null; then return; fi
  done
  install_packages "there is no Vulkan driver" mesa-vulkan-drivers libvulkan1
}

# NVRTC 13.0 and the headers that kernels include, from NVIDIA's packages on PyPI, in a directory of their own. Exports CCL_NVRTC_DIR.
nvrtc() {
  local folder=${CARGO_TARGET_DIR:-$PWD/target}/nvrtc
  if [ -n "${CCL_NVRTC_DIR:-}" ]; then return; fi
  if [ ! -e "$folder/nvidia/cu13/lib/libnvrtc.so.13" ]; then
    if ! python3 -m pip --version >/dev/null 2>&1; then install_packages "pip is missing" python3 python3-pip; fi
    echo "installing NVRTC 13.0 in $folder (about 250 MB)" >&2
    # Beside its place first: an interrupted installation must not look like a whole one.
    rm -rf "$folder" "$folder.partial"
    if ! PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder.partial" \
      'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-crt==13.0.*'; then
      echo "error: NVRTC cannot be installed from PyPI, and CUDA texts cannot be tested without it; set CCL_NVRTC_DIR to a" \
        "directory with lib/libnvrtc.so.13 and include/ of CUDA 13.0" >&2
      exit 1
    fi
    mv "$folder.partial" "$folder"
  fi
  export CCL_NVRTC_DIR=$folder/nvidia/cu13
}

# A software CUDA driver, which interprets kernels: softcuda, in a directory of its own. Exports CCL_SOFTCUDA_DIR, and lets programs find it where
# the machine has no driver of NVIDIA's, which it must never hide.
softcuda() {
  local folder=${CARGO_TARGET_DIR:-$PWD/target}/softcuda
  if [ -z "${CCL_SOFTCUDA_DIR:-}" ]; then
    # All libraries, so that it is built with the features that the tests build it with, and once.
    cargo build --release --quiet --workspace --lib
    mkdir -p "$folder"
    # Beside their places first: a running program may have them open.
    cp "${folder%/softcuda}/release/libsoftcuda.so" "$folder/partial"
    mv "$folder/partial" "$folder/libcuda.so.1"
    ln -sf libcuda.so.1 "$folder/libcuda.so"
    export CCL_SOFTCUDA_DIR=$folder
  fi
  if [ ! -e /dev/nvidiactl ] && [ ! -e /dev/dxg ] && ! /sbin/ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1'; then
    export LD_LIBRARY_PATH=$CCL_SOFTCUDA_DIR${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  fi
}

vulkan_driver
nvrtc
softcuda
# Kernels that tests compile, kept for the next run, and apart from the user's.
export CCL_CACHE_DIR=${CCL_CACHE_DIR:-${CARGO_TARGET_DIR:-$PWD/target}/ccl-cache}
