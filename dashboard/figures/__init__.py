"""Figures of a study: pure functions from a board to what plotly or the browser draws."""
