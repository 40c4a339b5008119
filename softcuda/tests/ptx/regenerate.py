"""Compiles every .cu file beside this script to .ptx with NVRTC.

pip install --target DIR 'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cuda-runtime==13.0.*' \
    'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-crt==13.0.*'
python regenerate.py DIR
"""
import ctypes
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1]) / "nvidia" / "cu13"
builtins = next((root / "lib").glob("libnvrtc-builtins.so.*"))
ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
nvrtc = ctypes.CDLL(str(next((root / "lib").glob("libnvrtc.so.*"))))
here = pathlib.Path(__file__).parent
for source in sorted(here.glob("*.cu")):
    arch = "sm_80" if source.stem == "tile" else "sm_90a"
    options = [f"--gpu-architecture={arch}", f"--include-path={root}/include", f"--include-path={root}/include/cccl", "-lineinfo"]
    text = source.read_bytes()
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None) == 0
    encoded = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
    status = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, ptx)
    # The debug section only names local header paths.
    out = re.sub(r"\n\t?\.file\t(\d+) \"[^\"]*/", r'\n\t.file\t\1 "', ptx.value.decode())
    source.with_suffix(".ptx").write_text(out)
