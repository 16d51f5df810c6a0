"""The sans-IO core: no clock, no async, no I/O, no logging, no thread, no randomness of its own.

Time is an argument (`now`, monotonic seconds). Whoever knows h11 can drive `Engine` at once: data goes in by
`receive_data` and `publish`, comes out of `data_to_send`, and `events` tells what the driver must do.
"""
