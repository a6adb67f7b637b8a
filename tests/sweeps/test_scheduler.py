"""Which line of an error tells what went wrong."""

import pytest

from sweeps.tune.scheduler import error_line

CUDA = """Failure # 1 (occurred at 2026-01-01)
ray::TrialTrainable.train() (pid=1, ip=10.0.0.1)
torch.AcceleratorError: CUDA error: device-side assert triggered
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Traceback (most recent call last):\n  File x\nValueError: boom\n\n", "ValueError: boom"),
        (CUDA, "torch.AcceleratorError: CUDA error: device-side assert triggered"),
        ("ValueError: first\nDuring handling\nray.exceptions.RayTaskError(KeyError): second\n", "second"),
        ("The actor died unexpectedly before finishing this task.\n", "The actor died"),
    ],
)
def test_the_line_that_names_the_error_is_kept(text, line):
    assert line in error_line(text)
