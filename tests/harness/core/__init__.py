"""What the core's tests stand on: random worlds, the plain model, and the ledger beside it."""
