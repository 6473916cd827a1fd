"""The parts of the command that a person sees: terminal, forecast, comparison, demonstration."""
