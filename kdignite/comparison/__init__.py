"""Finished runs beside one another: read, matched fairly or refused, measured, with what weakens the result."""
