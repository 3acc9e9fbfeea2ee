"""The verbs of the engine over HTTP, for a team: routes, callers, limits, duties (docs/adr/0006)."""
