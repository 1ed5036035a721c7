"""The table of planted faults fits the files that it edits, and a fault is told from none."""

import pytest

from benchmarks import mutants


def test_every_fault_is_one_edit_of_a_file_with_tests():
    table = list(mutants.faults())
    assert len({(fault.file, fault.old) for fault in table}) == len(table) >= 100
    for fault in table:
        text = (mutants.ROOT / fault.file).read_text()
        assert text.count(fault.old) == 1, (fault.file, fault.old, text.count(fault.old))
        compile(text.replace(fault.old, fault.new, 1), fault.file, "exec")
        assert all((mutants.ROOT / test).is_file() for test in fault.tests), fault


@pytest.mark.slow
def test_a_fault_is_noticed_and_no_fault_is_not(tmp_path):
    (tmp_path / "test_one.py").write_text("import one\n\n\ndef test_one():\n    assert one.ONE == 1\n")
    (tmp_path / "one.py").write_text("ONE = 1\n")
    assert mutants.ending(mutants.Fault("one.py", "1", "2", ("test_one.py",)), tmp_path) == "noticed"
    assert mutants.ending(mutants.Fault("one.py", "1", "1.0", ("test_one.py",)), tmp_path) == "survivors"
    assert (tmp_path / "one.py").read_text() == "ONE = 1\n"
