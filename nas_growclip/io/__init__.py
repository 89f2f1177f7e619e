"""Reading settings strictly, writing files safely, and telling progress."""
