"""The fuzzing client of Autobahn's test suite against the native WebSocket transport.

Most libraries use the suite to test RFC 6455 and RFC 7692. `echo` is the server under test, `suite` installs and runs
the suite, `report` reads its results, and `python -m tests.conformance.autobahn` is all of it as a command.
"""
