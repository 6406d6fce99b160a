"""The backends of the operations, one module each. protocol.py says what a backend offers."""
