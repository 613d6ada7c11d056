from comosvc.benchmarks.report import is_same_machine, machine_facts, machine_in_words


def test_masked_instructions_are_told_and_make_another_machine(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    whole = machine_facts()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    masked = machine_facts()
    assert "ONEDNN_MAX_CPU_ISA=avx2" in machine_in_words(masked)
    assert "ONEDNN" not in machine_in_words(whole)
    assert is_same_machine(whole, machine_facts() | {"isa_limit": None})
    assert not is_same_machine(whole, masked)
