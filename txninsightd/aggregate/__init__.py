"""The aggregator process: drains the channels into the ledger, folds what happened into figures, serves them."""
