"""bfloat16 support as read from /proc/cpuinfo, and as torch reports it."""

import pytest
import torch

from lmcore.device import cpu_bfloat16

FLAGS = "fpu vme sse2 avx2 avx512f avx512_vnni"


@pytest.fixture(autouse=True)
def _unlimited(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (FLAGS, False),
        (f"{FLAGS} avx512_bf16 clzero", True),
        (f"{FLAGS} amx_bf16 amx_tile", True),
        (f"{FLAGS} not_avx512_bf16", False),
        ("", False),
    ],
)
def test_a_cpu_has_bfloat16_if_a_flag_says_so(tmp_path, flags, expected):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: A CPU\nflags\t\t: {flags}\nbugs\t\t: avx512_bf16\n\n")
    assert cpu_bfloat16(file) is expected


def test_onednn_max_cpu_isa_can_disable_bfloat16(tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    file.write_text("flags : avx512_bf16\n")
    for isa, expected in (("AVX512_CORE_VNNI", False), ("avx2", False), ("AVX512_CORE_BF16", True), ("ALL", True)):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
        assert cpu_bfloat16(file) is expected


def test_without_cpuinfo_there_is_no_bfloat16(tmp_path):
    assert cpu_bfloat16(tmp_path / "none") is False


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this torch does not report it")
def test_torch_agrees_about_this_cpu():
    seen = torch.cpu.get_capabilities()
    assert cpu_bfloat16() is bool(seen.get("avx512_bf16") or seen.get("amx_bf16"))
