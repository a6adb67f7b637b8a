"""Ray Tune: the Tuner, a searcher and a scheduler that ask the ledger, and the trial proxy that forwards rows."""
