"""What `import pyro_vmtl` loads, in a process of its own."""

import subprocess
import sys


def test_nothing_is_loaded_that_seconds_go_by_for_and_few_need() -> None:
    program = "import sys, pyro_vmtl; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "torch" in loaded
    assert not {"scoringrules", "arviz", "hydra", "torchjd", "openpyxl"} & set(loaded)
