"""What a machine must show before an engine trains on it: here its token files, elsewhere (tests/faults) the rest."""

import numpy as np

from lmcore.config import DataConfig
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.tokens import save_tokens
from sweeps.cluster.proof import data_fault


def test_token_files_that_were_not_copied_must_be_there_as_the_driver_has_them(tmp_path):
    path = tmp_path / "train.bin"
    np.arange(5000, dtype=np.uint16).tofile(path)
    tokens = prepare_tokens(DataConfig(source=str(path)))
    kept = tmp_path / "tokens"
    assert data_fault(kept) is None  # nothing is written yet
    save_tokens(tokens, kept, "never")
    assert data_fault(kept) is None
    path.unlink()  # a file that is mapped must not be cut
    np.arange(4000, dtype=np.uint16).tofile(path)
    fault = f"{path} is not there as the driver has it; put it there, or start the sweep with data.copy: always"
    assert data_fault(kept) == fault
    path.unlink()
    assert data_fault(kept) == fault
    np.arange(5000, dtype=np.uint16).tofile(path)
    save_tokens(tokens, kept, "always")
    path.unlink()
    assert data_fault(kept) is None
