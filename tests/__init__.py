"""The tests; a package so that conftest and benchmarks can `from tests.postgres import PostgresServer`."""
