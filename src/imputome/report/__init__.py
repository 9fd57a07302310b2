"""Pictures of results; no science here."""
