"""Networks to train, on data of their own, and how their runs are judged."""
