"""One suite for every transport. `harness.py` lists them; the tests are the same for all."""
