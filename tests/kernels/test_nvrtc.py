"""CUDA C++ to machine code, which needs no GPU: what comes out, what is kept, what is refused."""

import pytest
from palyno.kernels.nvrtc import compile_kernel

nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC comes with PyTorch for CUDA")
try:
    nvrtc.nvrtcVersion()
except RuntimeError:
    pytest.skip("NVRTC comes with PyTorch for CUDA", allow_module_level=True)

SOURCE = 'extern "C" __global__ void fill(float *to) { to[threadIdx.x] = VALUE; }'


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PALYNO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def builds(monkeypatch):
    """One entry for each program that NVRTC was given."""
    compiled, asked = nvrtc.nvrtcCompileProgram, []
    monkeypatch.setattr(nvrtc, "nvrtcCompileProgram", lambda *a: asked.append(a[2]) or compiled(*a))
    return asked


def test_a_kernel_is_compiled_once_and_kept(kept, builds):
    binary = compile_kernel(SOURCE, {"VALUE": 1}, "sm_90a")
    assert binary.startswith(b"\x7fELF")
    assert b"fill" in binary
    assert compile_kernel(SOURCE, {"VALUE": 1}, "sm_90a") == binary
    (file,) = kept.iterdir()
    assert file.suffix == ".cubin"
    assert file.read_bytes() == binary
    assert len(builds) == 1


def test_other_definitions_sources_and_architectures_are_other_kernels(kept, builds):
    binaries = {
        compile_kernel(SOURCE, {"VALUE": 1}, "sm_90a"),
        compile_kernel(SOURCE, {"VALUE": 2}, "sm_90a"),
        compile_kernel(SOURCE.replace("fill", "full"), {"VALUE": 1}, "sm_90a"),
        compile_kernel(SOURCE, {"VALUE": 1}, "sm_80"),
    }
    assert len(binaries) == len(builds) == len(list(kept.iterdir())) == 4


def test_the_order_of_definitions_does_not_matter(builds):
    source = SOURCE.replace("VALUE", "VALUE + MORE")
    compile_kernel(source, {"VALUE": 1, "MORE": 2}, "sm_90a")
    compile_kernel(source, {"MORE": 2, "VALUE": 1}, "sm_90a")
    assert len(builds) == 1


@pytest.mark.parametrize(
    ("file", "folder", "taken"), [(0o600, 0o700, True), (0o666, 0o700, False), (0o600, 0o777, False)]
)
def test_code_that_others_could_have_written_is_not_taken(file, folder, taken, kept):
    binary = compile_kernel(SOURCE, {"VALUE": 1}, "sm_90a")
    (path,) = kept.iterdir()
    path.write_bytes(b"planted")
    path.chmod(file)
    kept.chmod(folder)
    assert compile_kernel(SOURCE, {"VALUE": 1}, "sm_90a") == (b"planted" if taken else binary)


def test_what_does_not_compile_says_why_and_is_not_kept(kept):
    with pytest.raises(RuntimeError, match=r'NVRTC_ERROR_COMPILATION[\s\S]*identifier "VALUE" is undefined'):
        compile_kernel(SOURCE, {}, "sm_90a")
    assert not kept.exists()


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, builds, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PALYNO_CACHE", str(tmp_path / "file"))
    first, second = (compile_kernel(SOURCE, {"VALUE": 1}, "sm_90a") for _ in range(2))
    assert first == second
    assert len(builds) == 2
