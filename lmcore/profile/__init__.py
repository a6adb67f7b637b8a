"""`python -m lmcore.profile`: where the time of an update goes, compared with what the device could do."""
