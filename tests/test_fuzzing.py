"""What somebody else wrote is read, or refused in one line, whatever it is: some seconds of the fuzz."""
import random

import pytest
from fuzzing import changed, fuzz, readers

pytestmark = pytest.mark.filterwarnings('ignore')  # of torch and numpy, about what they are given


def test_no_changed_file_is_a_traceback_or_takes_long():
    found = fuzz(1000, seed=20)
    assert found.inputs == 1000 and found.faults == []


def test_most_changed_files_differ_and_each_reader_is_its_own():
    found = readers()
    assert len({reader.name for reader in found}) == len(found) >= 20
    rng, example = random.Random(0), next(reader for reader in found if reader.name == 'space').files['a.json']
    assert sum(changed(example, rng) != example for _ in range(100)) > 90
