"""`python -m lmcore.coordinates`, the coordinate check: do activations keep their size as the model widens?"""
