"""How fast is it? Alternatives take turns, each in a process of its own, and the raw samples are kept."""
