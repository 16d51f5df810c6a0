"""The sans-IO core: no clock, no async, no I/O, no logging, no threads, no randomness.

Time is an argument (`now`, monotonic seconds). `Engine` is driven like an h11 connection: `receive_data` and `publish`
put data in, `data_to_send` yields what to write, and `events` says what else the driver must do.
"""
