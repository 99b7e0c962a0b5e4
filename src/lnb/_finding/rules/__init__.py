"""The rules of the search, one kind of operation a file: `rule(facts, equation, states)` gives an `Outcome`."""
