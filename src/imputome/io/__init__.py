"""Files in and out: reading inputs into AnnData, writing results in chunks, saved models."""
