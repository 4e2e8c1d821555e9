"""CUDA C++ compiled at run time by NVRTC, which comes with PyTorch: no compiler on the machine is needed.

Compiled code is kept on disk (`binaries`) under a hash of the source, its definitions, the architecture and the
compiler's version.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from . import binaries

__all__ = ["Kernel", "compile_kernel"]


class Kernel:
    """A compiled kernel on one device.

    Args:
        binary: Machine code (cubin).
        name: Name of the kernel in it, without C++ decoration.
        shared: Bytes of dynamic shared memory that it may ask for.
    """

    def __init__(self, binary: bytes, name: str, shared: int):
        from cuda.bindings import driver

        self._driver = driver
        self._module = _checked(driver.cuModuleLoadData(binary))
        self._function = _checked(driver.cuModuleGetFunction(self._module, name.encode()))
        limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(self._function, limit, shared))

    def blocks_per_multiprocessor(self, threads: int, shared: int) -> int:
        """How many blocks run at once on one multiprocessor."""
        return int(_checked(self._driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(self._function, threads, shared)))

    def __call__(
        self, grid: tuple[int, int, int], threads: int, shared: int, stream: int, *arguments: int | ctypes.Structure
    ) -> None:
        """Launches it.

        Args:
            grid: Blocks in x, y and z.
            threads: Of a block.
            shared: Bytes of dynamic shared memory of a block.
            stream: Handle of the CUDA stream.
            *arguments: Addresses on the device as integers, or structures that are passed by value.
        """
        values = [a if isinstance(a, ctypes.Structure) else ctypes.c_void_p(a) for a in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        _checked(
            self._driver.cuLaunchKernel(
                self._function, *grid, threads, 1, 1, shared, stream, ctypes.addressof(pointers), 0
            )
        )


def compile_kernel(source: str, definitions: Mapping[str, int | str], architecture: str) -> bytes:
    """Machine code of CUDA C++ source.

    Args:
        source: The program.
        definitions: Macros.
        architecture: Such as `sm_90a`.

    Returns:
        The cubin.

    Raises:
        RuntimeError: It does not compile; the text is the compiler's.
    """
    from cuda.bindings import nvrtc

    options = [f"--gpu-architecture={architecture}", "--std=c++17", "-default-device"]
    options += [f"-D{name}={value}" for name, value in sorted(definitions.items())]
    version = _checked_nvrtc(nvrtc, nvrtc.nvrtcVersion())
    name = binaries.digest(source, options, version) + ".cubin"
    kept = binaries.kept(name)
    if kept is not None:
        return kept.read_bytes()
    program = _checked_nvrtc(nvrtc, nvrtc.nvrtcCreateProgram(source.encode(), b"kernel.cu", 0, [], []))
    try:
        status = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])[0]
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytearray(_checked_nvrtc(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"NVRTC: {status.name}\n{log.decode(errors='replace')}")
        binary = bytearray(_checked_nvrtc(nvrtc, nvrtc.nvrtcGetCUBINSize(program)))
        _checked_nvrtc(nvrtc, nvrtc.nvrtcGetCUBIN(program, binary))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    binaries.keep(name, bytes(binary))
    return bytes(binary)


def _checked(answer: tuple[Any, ...]) -> Any:
    from cuda.bindings import driver

    status, *values = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"CUDA driver: {status.name}")
    return values[0] if values else None


def _checked_nvrtc(nvrtc: Any, answer: tuple[Any, ...]) -> Any:
    status, *values = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"NVRTC: {status.name}")
    return values[0] if values else None
