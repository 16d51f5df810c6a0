"""The fuzzing client of Autobahn's test suite against the native WebSocket transport.

The suite is the measure of RFC 6455 and RFC 7692 that most libraries are held against. `echo` is the server under
test, `suite` installs and runs the suite, `report` reads what it found, `python -m tests.conformance.autobahn` is all
of it as a command.
"""
